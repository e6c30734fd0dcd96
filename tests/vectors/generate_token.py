"""Makes ``token.json``: tokens of one store and what each says (``docs/spec/token.md``).

Run once for each change of the format: a key is random, and its private half is thrown away::

    .venv/bin/python -m tests.vectors.generate_token
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dox_core_store.server.adapters.jose import TokenSigner, generate_signing_key
from dox_core_store.server.domain.token import Claims, Kind, bound_to, to_payload

STORE = "store_vector"
NOW = 1_900_000_000
LIFE = 90 * 86_400

TOKENS: dict[str, dict[str, Any]] = {
    "service": {"kind": Kind.SERVICE, "name": "jules-mcp", "environment": "production"},
    "operator": {"kind": Kind.OPERATOR, "name": "ada", "environment": None},
    "service bound to addresses": {
        "kind": Kind.SERVICE,
        "name": "jules-mcp",
        "environment": "staging",
        "addresses": bound_to(["10.2.0.0/16", "2001:db8::/32", "192.0.2.7"]),
    },
}


def main() -> None:
    kid, pem, jwk = generate_signing_key()
    signer = TokenSigner(kid=kid, private_pem=pem)
    vectors = []
    for number, (name, fields) in enumerate(TOKENS.items()):
        claims = Claims(
            token_id=f"tok_vector{number:016d}",
            generation=number,
            issued_at=NOW,
            not_before=NOW,
            expires_at=NOW + LIFE,
            **fields,
        )
        vectors.append(
            {
                "name": name,
                "claims": to_payload(claims, STORE),
                "token": signer.sign(claims, STORE),
            }
        )
    made = {"store_id": STORE, "now": NOW, "jwk": jwk, "tokens": vectors}
    Path(__file__).with_name("token.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
