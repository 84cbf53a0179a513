"""An identity provider that has nothing to do with us: OpenID discovery, RS256, its own claims. For tests.

Whoever comes is signed in at once as `person`. Run as a program it prints its URL.
"""

import base64
import hashlib
import json
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import anyio
import click
import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_agents.server.listening import listen

PERSON = {"sub": "auth0|ann", "tenant": "acme", "groups": ["staff", "mcp-operators"]}


@dataclass
class IdentityProvider:
    """The provider; `issuer` is set once its port is known. `down` makes every document fail."""

    issuer: str = ""
    person: dict[str, Any] = field(default_factory=lambda: dict(PERSON))
    down: bool = False
    said: dict[str, Any] = field(default_factory=dict)
    """Changes of the metadata; None leaves a member out."""
    asked: Counter[str] = field(default_factory=Counter)
    keys: list[RSAKey | ECKey] = field(default_factory=lambda: [RSAKey.generate_key(2048, {"kid": "first"})])
    extra_keys: list[dict[str, Any]] = field(default_factory=list)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def token(self, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A signed token of the person; None leaves a claim out."""
        now = int(claims.pop("now", time.time()))
        usual = {"iss": self.issuer, "iat": now, "exp": now + 600, "jti": secrets.token_hex(8), "client_id": "an-ide"}
        said = {name: value for name, value in {**usual, **self.person, **claims}.items() if value is not None}
        key = key or self.keys[-1]
        algorithm = "RS256" if isinstance(key, RSAKey) else "ES256"
        whole = {"alg": algorithm, "typ": "at+jwt", "kid": key.kid or "none", **(header or {})}
        whole = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(whole, said, key, algorithms=[whole["alg"]])

    def application(self) -> Starlette:
        """Everything it serves."""
        routes = [
            Route("/.well-known/openid-configuration", self._metadata),
            Route("/keys", self._keys),
            Route("/authorize", self._authorize),
            Route("/token", self._token, methods=["POST"]),
            Route("/register", self._register, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def _metadata(self, _: Request) -> Response:
        self.asked["metadata"] += 1
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "registration_endpoint": f"{self.issuer}/register",
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
            **self.said,
        }
        shown = {name: value for name, value in document.items() if value is not None}
        return JSONResponse(shown, status_code=503 if self.down else 200)

    async def _keys(self, _: Request) -> Response:
        self.asked["keys"] += 1
        listed = [{**key.as_dict(private=False), "kid": key.kid, "use": "sig"} for key in self.keys]
        return JSONResponse({"keys": [*listed, *self.extra_keys]}, status_code=503 if self.down else 200)

    async def _register(self, request: Request) -> Response:
        asked = await request.json()
        return JSONResponse({**asked, "client_id": "an-ide", "token_endpoint_auth_method": "none"}, status_code=201)

    async def _authorize(self, request: Request) -> Response:
        code = secrets.token_urlsafe(16)
        self._codes[code] = dict(request.query_params)
        query = {"code": code, "state": request.query_params["state"], "iss": self.issuer}
        return RedirectResponse(f"{request.query_params['redirect_uri']}?{urlencode(query)}", 302)

    async def _token(self, request: Request) -> Response:
        form = await request.form()
        begun = self._codes.pop(str(form["code"]), {})
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != begun.get("code_challenge"):
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        token = self.token(aud=begun["resource"], scope=begun.get("scope"))
        return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": 600})


async def main() -> None:
    """Serves until it is stopped; the person's claims are the first argument, as JSON."""
    provider = IdentityProvider()
    if len(sys.argv) > 1:
        provider.person = json.loads(sys.argv[1])
    with listen("127.0.0.1", 0) as listener:
        provider.issuer = f"http://127.0.0.1:{listener.getsockname()[1]}"
        click.echo(provider.issuer)
        await uvicorn.Server(uvicorn.Config(provider.application(), log_level="error")).serve([listener])


if __name__ == "__main__":
    anyio.run(main)
