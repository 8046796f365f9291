"""What runs it: configuration, entry points, the loop, the weight store, pacing, evaluation and reports."""

import os

# Transformers looks at this when it is first imported, here and in the processes that a local run starts. Its notices
# (such as that torchvision is missing, which nothing here needs) are not for our users.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
