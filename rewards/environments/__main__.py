"""`python -m rewards.environments NAME FOLDER`: build an environment ahead, for `rewards.NAME.environment`."""

import sys
from pathlib import Path
from subprocess import CalledProcessError

from rewards.environments import build
from shapes.arguments import Parser


def main() -> int:
    """Build it, and print its interpreter."""
    parser = Parser("rewards.environments", __doc__ or "")
    parser.add_argument("environment", help="a name such as image_reward, or a requirements file (*.txt)")
    parser.add_argument("folder", type=Path, help="where it goes; what is there is replaced")
    args = parser.parse_args()
    try:
        print(build(args.environment, args.folder.absolute()))
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {args.folder} cannot be written to ({error.strerror}).", file=sys.stderr)
        return 1
    except CalledProcessError:
        print(f"error: pip could not install {args.environment}; it says why above.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
