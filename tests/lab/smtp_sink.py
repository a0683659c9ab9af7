"""A mail server that keeps what comes, and that refuses, puts off and hangs when told.

    smtp_sink.py PORT TLS_PORT FOLDER

PORT takes STARTTLS and then a login, TLS_PORT is protected from the first byte. The login is `tenure` with the password in
FOLDER/password. What came whole stands in FOLDER/received.jsonl, one JSON object a line, decoded by Python's own library for
mail; FOLDER/recipients.jsonl has every recipient that was named, and what was answered.

FOLDER/mode, read anew for each connection, says how it behaves:

    good        takes everything, except that `refused...@` is answered 550 and `later...@` 451 the first time
    accept      takes everything
    hang        takes a message whole and never answers
    no_login    refuses every login
    plain       offers no STARTTLS
"""

import asyncio
import email
import email.policy
import json
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

port, tls_port, folder = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
put_off = set()


def mode():
    try:
        return (folder / "mode").read_text().strip()
    except FileNotFoundError:
        return "good"


def note(name, line):
    with open(folder / name, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def login(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and (
        data.login.decode() == "tenure"
        and data.password.decode() == (folder / "password").read_text().strip()
    )
    # Not `handled`: the library answers 535 itself.
    return AuthResult(success=good and mode() != "no_login", handled=False)


class Keeps:
    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = "250 OK"
        if mode() == "good" and address.startswith("refused"):
            answer = "550 5.1.1 no such user"
        elif mode() == "good" and address.startswith("later") and address not in put_off:
            put_off.add(address)
            answer = "451 4.7.1 come again later"
        note("recipients.jsonl", {"to": address, "answer": answer})
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        parts = [part for part in message.walk() if not part.is_multipart()]
        note(
            "received.jsonl",
            {
                "from": envelope.mail_from,
                "to": envelope.rcpt_tos,
                "protected": server.transport.get_extra_info("ssl_object") is not None,
                "login": bool(session.authenticated),
                "headers": {name: str(value) for name, value in message.items()},
                "parts": {part.get_content_type(): part.get_content() for part in parts},
            },
        )
        if mode() == "hang":
            await asyncio.sleep(3600)
        return "250 2.0.0 kept"


async def main():
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls/server.pem", folder / "tls/server.key")

    def starttls():
        plain = mode() == "plain"
        return SMTP(
            Keeps(),
            hostname="lab.example.org",
            tls_context=None if plain else context,
            require_starttls=not plain,
            authenticator=login,
            auth_required=True,
            auth_require_tls=True,
        )

    def implicit():
        return SMTP(
            Keeps(),
            hostname="lab.example.org",
            authenticator=login,
            auth_required=True,
            auth_require_tls=False,
        )

    servers = [
        await loop.create_server(starttls, "127.0.0.1", port),
        await loop.create_server(implicit, "127.0.0.1", tls_port, ssl=context),
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
