"""The public keys of clients that sign assertions: which are taken, and what each is good for. Pure."""

import binascii
from collections.abc import Mapping
from typing import Any, Final

import jwt
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from mcp_agents.kernel.errors import Invalid

ALGORITHMS: Final = ["ES256", "RS256"]
_RSA_BITS: Final = (2048, 8192)
"""A larger key would make each check of a signature dear."""
_PRIVATE: Final = {"d", "p", "q", "dp", "dq", "qi", "k"}


def check_keys(keys: list[dict[str, str]]) -> None:
    """Raises `Invalid` (`CLIENT_KEYS_INVALID`) unless these are one to eight public keys that we verify with."""
    kids = [key.get("kid", "") for key in keys]
    if not 0 < len(keys) <= 8 or (len(keys) > 1 and ("" in kids or len(set(kids)) < len(kids))):
        raise _bad_keys("One to eight keys; more than one need a kid each.")
    for key in keys:
        if not all(isinstance(value, str) for value in key.values()) or _PRIVATE & set(key):
            raise _bad_keys("Only public keys are taken.")
        if not key_algorithm(key):
            raise _bad_keys("Keys are of the curve P-256, or RSA of 2048 to 8192 bits.")


def key_algorithm(key: Mapping[str, str]) -> str:
    """The one algorithm that a key is good for; "" for a key we do not take."""
    try:
        match key.get("kty"):
            case "EC" if key.get("crv") == "P-256":
                public_key(key)
                return "ES256"
            case "RSA":
                return "RS256" if _RSA_BITS[0] <= public_key(key).key_size <= _RSA_BITS[1] else ""
    except (jwt.PyJWTError, ValueError, KeyError, TypeError, binascii.Error):
        return ""
    return ""


def public_key(key: Mapping[str, str]) -> Any:
    """The key as PyJWT takes it."""
    return (ECAlgorithm if key["kty"] == "EC" else RSAAlgorithm).from_jwk(dict(key))


def _bad_keys(says: str) -> Invalid:
    return Invalid("CLIENT_KEYS_INVALID", f"These keys cannot be registered. {says}", "Give a JWK set of public keys.")
