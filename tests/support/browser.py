"""A person's browser, as far as signing in needs one: follows redirects, keeps cookies, fills in forms."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx2


@dataclass
class Form:
    """A form of a page, with what its fields hold."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get").lower()))
        elif tag == "input" and self.forms and given.get("name"):
            if given.get("type") in ("radio", "checkbox") and "checked" not in given:
                return
            if given.get("type") == "submit":
                self.forms[-1].buttons.append((given["name"], given.get("value", "")))
                return
            self.forms[-1].fields[given["name"]] = given.get("value", "")
        elif tag == "button" and self.forms and given.get("name"):
            self.forms[-1].buttons.append((given["name"], given.get("value", "")))
        elif tag == "select":
            self._select = given.get("name", "")
        elif tag == "option" and self._select and self.forms:
            fields = self.forms[-1].fields
            if self._select not in fields or "selected" in given:
                fields[self._select] = given.get("value", "")


class Browser:
    """One person with one cookie jar."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self.url, self.page = "", ""

    async def open(self, url: str) -> str:
        """Follows redirects; stops, and returns the address, where one leaves the server."""
        return await self._arrive(await self._http.get(url), urlsplit(url).netloc)

    def form(self) -> Form:
        """The page's first form."""
        parser = _Forms()
        parser.feed(self.page)
        return parser.forms[0]

    async def submit(self, form: Form, **filled: str) -> str:
        """Sends a form with what is filled in; returns where it led."""
        target = urljoin(self.url, form.action or self.url)
        return await self._arrive(
            await self._http.post(target, data={**form.fields, **filled}), urlsplit(target).netloc
        )

    async def _arrive(self, response: httpx2.Response, own: str) -> str:
        while response.is_redirect:
            target = urljoin(str(response.url), response.headers["location"])
            if urlsplit(target).netloc != own:
                return target
            response = await self._http.get(target)
        self.url, self.page = str(response.url), response.text
        return self.url
