"""A mutating admission webhook on loopback, for one namespace."""

import asyncio
import base64
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from dev.cluster.pki import SERVER, Authority
from dev.ports import free_port
from tests.support.api_server import ApiServer

Change = Callable[[dict[str, Any]], list[dict[str, Any]]]
"""An object to the JSON patch that is made of it."""


class Webhook:
    """Use as an async context manager: it is in force from then until its end. message: with one
    every write is refused."""

    def __init__(
        self,
        server: ApiServer,
        namespace: str,
        folder: Path,
        *,
        group: str,
        resource: str,
        change: Change = lambda _: [],
        message: str = "",
    ) -> None:
        self._server = server
        self._namespace = namespace
        self._folder = folder
        self._rule = {
            "apiGroups": [group],
            "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"],
            "resources": [resource],
        }
        self._change = change
        self._message = message
        self._name = f"{resource}.{namespace}.test.dev"
        self.calls = 0

    async def __aenter__(self) -> "Webhook":
        self._folder.mkdir(parents=True)
        Authority(self._folder).issue("hook", "hook", usages=(SERVER,), ips=("127.0.0.1",))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self._folder / "hook.crt", self._folder / "hook.key")
        app = web.Application()
        app.router.add_post("/", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        port = free_port()
        await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=tls).start()
        authority = base64.b64encode((self._folder / "ca.crt").read_bytes()).decode()
        body = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self._name},
            "webhooks": [
                {
                    "name": self._name,
                    "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": authority},
                    "rules": [self._rule],
                    "namespaceSelector": {
                        "matchLabels": {"kubernetes.io/metadata.name": self._namespace}
                    },
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                }
            ],
        }
        await self._kubectl("apply", "-f", "-", stdin=json.dumps(body))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._kubectl("delete", "mutatingwebhookconfiguration", self._name)
        await self._runner.cleanup()

    async def _kubectl(self, *words: str, stdin: str = "") -> None:
        await asyncio.to_thread(self._server.kubectl, *words, stdin=stdin)

    async def _answer(self, request: web.Request) -> web.Response:
        asked = (await request.json())["request"]
        answer: dict[str, Any] = {"uid": asked["uid"], "allowed": not self._message}
        if self._message:
            answer["status"] = {"message": self._message}
        self.calls += 1
        patch = self._change(asked.get("object") or {})
        if patch and not self._message:
            encoded = base64.b64encode(json.dumps(patch).encode()).decode()
            answer |= {"patchType": "JSONPatch", "patch": encoded}
        return web.json_response(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
        )
