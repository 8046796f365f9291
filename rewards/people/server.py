"""The page's server: hands questions to raters and keeps what they choose before it hands out more."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from rewards.people.choices import BOTH_BAD, TIE, AlreadyChosen, Choice, Choices, orders
from rewards.people.lines import Damaged, NotKept
from rewards.people.questions import Questions
from rewards.people.results import summary
from rewards.people.schedule import Rules, Schedule, Showing
from rewards.service.security import is_loopback
from shapes.arguments import one_line

_PAGE = Path(__file__).parent / "page"
_FILES = {path.name: path for path in sorted(_PAGE.iterdir()) if path.suffix in (".html", ".css", ".js", ".svg")}
_COOKIE = "reinoise-label"
_LONGEST = 60  # characters of a name
_DAY, _AGE = 86400.0, 1e9  # seconds: the longest look, and what nobody has looked for
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """A request that is answered with a sentence.

    Args:
        status: Of HTTP.
        sentence: For whoever asked.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Page:
    """Everything that the page asks for.

    Args:
        questions: That may be asked; looked at anew whenever somebody asks for more.
        choices: In the hands of this process.
        rules: How questions are handed out.
        token: That lets people in; `None` where everybody who reaches the address may.
        local: Answer to names of this machine alone, which keeps pages of other sites out that resolve to it.
    """

    def __init__(
        self, questions: Questions, choices: Choices, rules: Rules, token: str | None = None, local: bool = False
    ) -> None:
        self._questions, self._choices = questions, choices
        self._schedule = Schedule(questions, choices, rules)
        self._token, self._local = token, local
        self._trouble = ""  # what was said of the questions' file
        self._summary: tuple[int, dict[str, Any]] | None = None  # at so many changes

    def app(self) -> web.Application:
        """The application, to be served."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._enter)
        app.router.add_get("/results", self._results_page)
        app.router.add_get("/page/{name}", self._file)
        app.router.add_get("/pictures/{name}", self._picture)
        app.router.add_get("/api/next", self._next)
        app.router.add_get("/api/results", self._results)
        app.router.add_post("/api/choose", self._choose)
        app.router.add_post("/api/undo", self._undo)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Let in who may come in, and say in a sentence why something was refused."""
        try:
            if self._local and not is_loopback(request.url.host or ""):
                raise Refused(403, "This page is for this machine alone; open it as http://127.0.0.1.")
            given = request.cookies.get(_COOKIE, "") if request.path != "/" else ""
            if self._token is not None and request.path != "/" and not _same(given, self._token):
                raise Refused(401, "Open the page once by the whole link that you were given, with its token.")
            response = await handler(request)
        except Refused as error:
            response = web.json_response({"error": str(error)}, status=error.status)
        except NotKept as error:
            response = web.json_response(
                {"error": f"Your choice was not saved and does not count: {error}"}, status=507
            )
        except AlreadyChosen as error:
            response = web.json_response({"error": str(error)}, status=409)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        if (given := request.query.get("token")) is not None and self._token is not None:
            if not _same(given, self._token):
                raise Refused(401, "This link's token is not the one of this page; ask for the link again.")
            response = web.Response(status=302, headers={"Location": "/"})
            response.set_cookie(
                _COOKIE, given, httponly=True, samesite="Strict", secure=request.secure, max_age=90 * 86400
            )
            return response
        return self._page_file("index.html")

    async def _results_page(self, request: web.Request) -> web.StreamResponse:
        return self._page_file("results.html")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return self._page_file(request.match_info["name"])

    def _page_file(self, name: str) -> web.StreamResponse:
        if name not in _FILES:
            raise Refused(404, "There is no such page.")
        return web.FileResponse(_FILES[name], headers={"Cache-Control": "no-cache"})

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        path = self._questions.picture(request.match_info["name"])
        if path is None or not path.is_file():
            raise Refused(404, "There is no such picture.")
        return web.FileResponse(path, headers={"Cache-Control": "private, max-age=31536000, immutable"})

    async def _next(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._state(_name(request.query.get("rater"))))

    async def _results(self, request: web.Request) -> web.StreamResponse:
        changes = self._choices.changes
        if self._summary is None or self._summary[0] != changes:
            choices, questions = list(self._choices), {question.id: question for question in self._questions}
            self._summary = changes, await asyncio.to_thread(summary, choices, questions)
        return web.json_response(self._summary[1])

    async def _choose(self, request: web.Request) -> web.StreamResponse:
        given = await _json(request)
        rater, name = _name(given.get("rater")), given.get("question")
        if not isinstance(name, str) or name not in self._questions:
            raise Refused(404, "This is not asked here.")
        question = self._questions[name]
        try:
            order = orders(question, given["places"])
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(400, f"The choice says nothing that can be kept ({error}).") from None
        verdict, again = given.get("choice"), given.get("round")
        places = [*range(len(order)), TIE, *([] if question.words else [BOTH_BAD])]
        if isinstance(verdict, bool) or not isinstance(verdict, int | str) or verdict not in places:
            raise Refused(400, "The choice is none of those that can be made.")
        if type(again) is not int or again not in (0, 1):
            raise Refused(400, "The round is neither 0 nor 1.")
        if again and not self._choices.answered(rater, name, 0):
            raise Refused(409, "This comes again to those alone who have answered it before.")
        choice = Choice(
            _id(given), name, question.prompt, question.sets, order, verdict, rater, again, time.time(), _seconds(given)
        )  # fmt: skip
        await self._choices.add(choice)
        return web.json_response(self._state(rater))

    async def _undo(self, request: web.Request) -> web.StreamResponse:
        given = await _json(request)
        rater, name = _name(given.get("rater")), _id(given)
        try:
            choice = await self._choices.withdraw(name, rater, time.time())
        except KeyError:
            raise Refused(404, "There is no such choice of yours.") from None
        if choice is not None:
            self._schedule.put_back(choice)
        return web.json_response(self._state(rater))

    def _state(self, rater: str) -> dict[str, Any]:
        """What a rater's page shows."""
        self._refresh()
        made = self._choices.of(rater)
        return {
            "showings": [_shown(showing) for showing in self._schedule.next(rater)],
            "done": len(made),
            "left": self._schedule.left(rater),
            "last": made[-1].id if made else None,
        }

    def _refresh(self) -> None:
        """Look for more questions; where there is something else, those known so far are asked, and it is said once."""
        try:
            self._questions.refresh()
            self._trouble = ""
        except (Damaged, OSError) as error:
            if (trouble := one_line(error)) != self._trouble:
                _log.warning("warning: No more questions come: %s", trouble)
            self._trouble = trouble


async def serve(
    page: Page, host: str, port: int, encrypted: ssl.SSLContext | None, started: Callable[[int], None]
) -> None:
    """Serve a page until the task is cancelled.

    Args:
        page: The page.
        host: To listen on.
        port: 0 is a free one.
        encrypted: TLS, where there is any.
        started: Is told the port, once the page can be opened.

    Raises:
        OSError: If the address cannot be listened on; the message is one sentence for the user.
    """
    runner = web.AppRunner(page.app(), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=encrypted)
        try:
            await site.start()
        except (OSError, UnicodeError) as error:
            number = getattr(error, "errno", None) or 0
            why = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or "it is no name of a host"
            raise OSError(f"Nothing can listen on {host}, port {port} ({why}); name another --listen.") from error
        started(runner.addresses[0][1])
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _shown(showing: Showing) -> dict[str, Any]:
    """A showing as the page hears of it: what made the pictures, and which comes first in the records, stays here."""
    question = showing.question
    return {
        "question": question.id,
        "round": showing.round,
        "prompt": question.prompt,
        "words": question.words,
        "places": [question.sets[index] for index in showing.order],
    }


async def _json(request: web.Request) -> dict[str, Any]:
    # A form of another site cannot send this type without being asked for permission first.
    if request.content_type != "application/json":
        raise Refused(415, "Choices come as JSON.")
    try:
        given = await request.json()
    except (ValueError, LookupError, RecursionError):  # no JSON, no such charset, too deep
        given = None
    if not isinstance(given, dict):
        raise Refused(400, "The request is no JSON object.")
    return given


def _name(given: object) -> str:
    name = " ".join(given.split()) if isinstance(given, str) else ""
    if not 0 < len(name) <= _LONGEST or not name.isprintable():
        raise Refused(400, f"Give your name, in at most {_LONGEST} characters.")
    return name


def _id(given: dict[str, Any]) -> str:
    name = given.get("id")
    if not isinstance(name, str) or not 8 <= len(name) <= 64 or not name.isascii() or not name.isalnum():
        raise Refused(400, "The choice has no id.")
    return name


def _seconds(given: dict[str, Any]) -> float | None:
    """How long somebody looked, as far as a browser can be believed."""
    seconds = given.get("seconds")
    if seconds is None:
        return None
    if type(seconds) not in (int, float) or not -_AGE < seconds < _AGE:  # nor is NaN
        raise Refused(400, "The seconds are no number of seconds.")
    return round(min(max(float(seconds), 0.0), _DAY), 3)


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(errors="surrogatepass"), token.encode())
