"""The pages for signing in, for consent and for approvals: plain HTML that works without scripts, and the headers
that guard it.

Everything that is not a literal here is escaped. One style sheet, allowed by its hash; no script at all.
"""

import base64
import hashlib
from html import escape
from typing import Final

from starlette.responses import HTMLResponse

from mcp_agents_auth.authorize import AuthorizeRequest, Offer
from mcp_agents_auth.passwords import MAX_LENGTH, MIN_LENGTH
from mcp_agents_auth.redirects import only_this_machine, origin
from mcp_agents_auth.users import User

_STYLE: Final = (
    "body{font:1rem/1.5 system-ui,sans-serif;margin:0;background:#f4f5f7;color:#1c2024}"
    "main{max-width:28rem;margin:8vh auto;padding:2rem;background:#fff;border:1px solid #d5d9df;border-radius:.5rem}"
    "h1{font-size:1.375rem;margin-top:0}label{display:block;margin:1rem 0 .25rem}"
    "input[type=email],input[type=password],input[type=text]{width:100%;box-sizing:border-box;padding:.5rem;font:inherit}"
    "button{font:inherit;padding:.5rem 1.25rem;margin:1.5rem .5rem 0 0;cursor:pointer}"
    ".error{border-left:.25rem solid #b3261e;padding-left:.75rem;color:#8c1d18}"
    "dt{font-weight:600;margin-top:.75rem}dd{margin:0;overflow-wrap:anywhere;white-space:pre-wrap}"
    "fieldset{border:1px solid #6b7280}"
    "input,button{border:1px solid #6b7280;border-radius:.25rem}a{color:#0b57d0}"
    ":focus-visible{outline:.1875rem solid #0b57d0;outline-offset:.125rem}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def security_headers(form_target: str = "") -> dict[str, str]:
    """The headers of every page. `form_target` is the redirect URI that a form on it may lead to."""
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'{_target(form_target)}; "
            "frame-ancestors 'none'; base-uri 'none'"
        ),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        # Not "no-referrer": with it browsers send forms with the origin "null", which the door refuses.
        "Referrer-Policy": "same-origin",
    }


def message_page(title: str, text: str, *, status: int = 200) -> HTMLResponse:
    """A page that only says something."""
    return _page(title, f"<p>{escape(text)}</p>", status=status)


def signed_in_page(sign_out: str) -> HTMLResponse:
    """Signed in, with nothing to go on with; `sign_out` leads to the page for that."""
    body = f'<p>You can connect a client now, and close this page.</p><p><a href="{escape(sign_out)}">Sign out</a></p>'
    return _page("Signed in", body)


def sign_out_page(action: str, *, form_token: str, user: User) -> HTMLResponse:
    """Asks whether this browser should forget who sits in front of it."""
    body = (
        f"<p>Signed in as <bdi>{escape(user.email)}</bdi>. Clients that you connected stay connected.</p>"
        f'{_form(action, form_token)}<button type="submit">Sign out</button></form>'
    )
    return _page("Sign out?", body)


def sign_in_page(
    action: str,
    *,
    form_token: str,
    request: AuthorizeRequest | None,
    next_query: str,
    error: str = "",
    status: int = 200,
) -> HTMLResponse:
    """Asks for address and password; afterwards the browser goes on with `next_query`."""
    purpose = f"<p>to connect <bdi>{escape(request.client.name)}</bdi></p>" if request else ""
    body = (
        f"{purpose}{_error(error)}{_form(action, form_token, next=next_query)}"
        '<label for="email">E-mail</label>'
        f'<input id="email" name="email" type="email" autocomplete="username" required autofocus{_wrong(error)}>'
        '<label for="password">Password</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" required'
        f"{_wrong(error)}>"
        '<button type="submit">Sign in</button></form>'
    )
    return _page("Sign in", body, status=status, form_target=request.redirect_uri if request else "")


def first_password_page(
    action: str, *, form_token: str, user: User, ticket: str, error: str = "", status: int = 200
) -> HTMLResponse:
    """Opened by a one-time link: sets the password of `user`."""
    body = (
        f"<p>for <bdi>{escape(user.email)}</bdi></p>{_error(error)}{_form(action, form_token, ticket=ticket)}"
        f'<input type="hidden" name="email" autocomplete="username" value="{escape(user.email)}">'
        f'<label for="password">New password, {MIN_LENGTH} characters or more</label>'
        '<input id="password" name="password" type="password" autocomplete="new-password" '
        f'minlength="{MIN_LENGTH}" maxlength="{MAX_LENGTH}" required autofocus{_wrong(error)}>'
        '<button type="submit">Set password and sign in</button></form>'
    )
    return _page("Choose a password", body, status=status)


def invitation_page(
    action: str,
    *,
    form_token: str,
    token: str,
    facts: list[tuple[str, str]],
    email: str,
    known: bool,
    error: str = "",
    status: int = 200,
) -> HTMLResponse:
    """Opened by an invitation's link. Whoever has a user already shows it by the password, anybody else chooses one."""
    listed = "".join(f"<dt>{escape(name)}</dt><dd><bdi>{escape(text)}</bdi></dd>" for name, text in facts)
    label = "Your password" if known else f"New password, {MIN_LENGTH} characters or more"
    limits = "" if known else f' minlength="{MIN_LENGTH}" maxlength="{MAX_LENGTH}"'
    body = (
        f"<p>for <bdi>{escape(email)}</bdi></p><dl>{listed}</dl>{_error(error)}{_form(action, form_token, token=token)}"
        f'<input type="hidden" name="email" autocomplete="username" value="{escape(email)}">'
        f'<label for="password">{label}</label>'
        '<input id="password" name="password" type="password" '
        f'autocomplete="{"current" if known else "new"}-password"{limits} required autofocus{_wrong(error)}>'
        '<button type="submit">Accept</button></form>'
    )
    return _page("You are invited", body, status=status)


def consent_page(
    action: str, switch: str, *, form_token: str, request: AuthorizeRequest, user: User, offers: list[Offer], query: str
) -> HTMLResponse:
    """Asks whether the client may have what it asks for, and in which tenant. `switch` signs in as somebody else."""
    warning = ""
    if only_this_machine(request.redirect_uri):
        warning = (
            '<p class="error">The answer goes to a program on this computer. '
            "Any program here could claim this name: go on only if you just started it.</p>"
        )
    # Anybody can call a program anything; the address of its own document is what it can prove.
    described = f"<dt>Described at</dt><dd>{escape(request.client.id)}</dd>" if "/" in request.client.id else ""
    body = (
        f"<p>Signed in as <bdi>{escape(user.email)}</bdi> "
        f'(<a href="{escape(switch)}">use another account</a>)</p>{warning}'
        f"<dl><dt>Program</dt><dd><bdi>{escape(request.client.name)}</bdi></dd>{described}"
        f"<dt>Answer goes to</dt><dd>{escape(origin(request.redirect_uri))}</dd>"
        f"<dt>For</dt><dd>{escape(request.resource)}</dd></dl>"
        f"{_form(action, form_token, request=query)}{_choice(offers)}"
        '<button type="submit" name="decision" value="approve">Allow</button>'
        '<button type="submit" name="decision" value="deny">Deny</button></form>'
    )
    return _page("Allow access?", body, form_target=request.redirect_uri)


def approval_page(
    action: str, switch: str, *, form_token: str, user: User, facts: list[tuple[str, str]]
) -> HTMLResponse:
    """Asks whether something may be done; `facts` are what it is, by name. `switch` signs in as somebody else."""
    listed = "".join(f"<dt>{escape(name)}</dt><dd><bdi>{escape(text)}</bdi></dd>" for name, text in facts)
    body = (
        f"<p>Signed in as <bdi>{escape(user.email)}</bdi> "
        f'(<a href="{escape(switch)}">use another account</a>)</p><dl>{listed}</dl>'
        f"{_form(action, form_token)}"
        '<label for="reason">Reason, for the agent and the record</label>'
        '<input id="reason" name="reason" type="text" maxlength="2000" autocomplete="off">'
        '<button type="submit" name="decision" value="approve">Approve</button>'
        '<button type="submit" name="decision" value="refuse">Refuse</button></form>'
    )
    return _page("Approve this call?", body)


def leading_page(title: str, href: str, label: str, *, user: User, facts: list[tuple[str, str]]) -> HTMLResponse:
    """Says where a link leads, and what comes of following it."""
    listed = "".join(f"<dt>{escape(name)}</dt><dd><bdi>{escape(text)}</bdi></dd>" for name, text in facts)
    body = (
        f"<p>Signed in as <bdi>{escape(user.email)}</bdi></p><dl>{listed}</dl>"
        f'<p><a href="{escape(href)}">{escape(label)}</a></p>'
    )
    return _page(title, body)


def _choice(offers: list[Offer]) -> str:
    rows = []
    for number, offer in enumerate(offers):
        name, scopes = escape(offer.tenant.name), escape(", ".join(sorted(offer.scopes)))
        checked = " checked" if len(offers) == 1 else ""
        rows.append(
            f'<label for="tenant-{number}"><input id="tenant-{number}" type="radio" name="tenant" value="{name}" '
            f'required{checked} aria-describedby="scopes-{number}"> <bdi>{escape(offer.tenant.title)}</bdi> ({name})'
            f'</label><p id="scopes-{number}">{scopes}</p>'
        )
    return f"<fieldset><legend>It may then, in</legend>{''.join(rows)}</fieldset>"


def _form(action: str, form_token: str, **hidden: str) -> str:
    fields = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in {"csrf": form_token, **hidden}.items()
        if value
    )
    return f'<form method="post" action="{escape(action)}">{fields}'


def _error(text: str) -> str:
    return f'<p class="error" id="error" role="alert">{escape(text)}</p>' if text else ""


def _wrong(error: str) -> str:
    """What ties a field to the sentence that says what is wrong with it."""
    return ' aria-invalid="true" aria-describedby="error"' if error else ""


def _page(title: str, body: str, *, status: int = 200, form_target: str = "") -> HTMLResponse:
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} - MCP Agents</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>"
    )
    return HTMLResponse(html, status, security_headers(form_target))


def _target(uri: str) -> str:
    """Browsers hold the redirect behind a form to `form-action` too, so that its origin has to be in there."""
    if not uri:
        return ""
    place = origin(uri)
    # The grammar of source expressions knows no IPv6 address; the scheme is the nearest thing to say.
    return " http:" if "[" in place and place.startswith("http:") else f" {place}"
