"""partitionctl against a group: what a person types, what a script reads."""

import asyncio
import json
import os
import sys
from pathlib import Path

from tests.support.local_group import LocalGroup


async def run(group: LocalGroup, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """(exit code, standard output, standard error)."""
    assert group.tls is not None
    folder = group.tls["client"].certificate.parent
    endpoints = ",".join(r.address for r in group.replicas)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "partition_client",
        "--endpoints",
        endpoints,
        "--tls-dir",
        str(folder),
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ,
    )
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace"), err.decode()


async def ok(group: LocalGroup, *words: str, stdin: bytes = b"") -> str:
    code, out, err = await run(group, *words, stdin=stdin)
    assert code == 0, err
    return out


async def test_every_command(group: LocalGroup, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "f").write_bytes(b"content")
    (source / "large").write_bytes(os.urandom(100_000))
    async with group:
        await group.bootstrap()
        assert int(await ok(group, "put", "greeting", "hello")) > 1
        assert await ok(group, "get", "greeting") == "hello"
        await ok(group, "put", "piped", "-", stdin=b"from standard input")
        assert json.loads(await ok(group, "--json", "get", "piped"))["value"] == (
            "from standard input"
        )
        assert (await ok(group, "ls", "--keys", "g")).split() == ["greeting"]
        put = json.loads(await ok(group, "--json", "put-tree", str(source), "--under", "t"))
        assert put == {"files": 2, "directories": 1, "bytes": 100_007, "skipped": 0}
        listed = [json.loads(x) for x in (await ok(group, "--json", "ls", "-r", "t")).splitlines()]
        assert [row["path"] for row in listed] == ["t/d", "t/d/f", "t/large"]
        assert await ok(group, "get", "--file", "t/d/f") == "content"
        await ok(group, "get-tree", str(tmp_path / "out"), "--under", "t")
        digest = await ok(group, "digest-tree", "--under", "t")
        assert digest == await ok(group, "digest-tree", "--local", str(tmp_path / "out"))
        await group.settled()
        for replica in group.replicas:
            stale = ("--stale-from", replica.address)
            assert digest == await ok(group, "digest-tree", "--under", "t", *stale)
        await ok(group, "put", "t/d/f", "--file", str(source / "large"))
        await ok(group, "rm", "--file", "t/d/f")
        await ok(group, "rm", "greeting")
        tail = [json.loads(x) for x in (await ok(group, "--json", "log", "tail")).splitlines()]
        assert {"open_session", "proposal", "empty", "configuration"} <= {r["kind"] for r in tail}
        assert len((await ok(group, "log", "tail", "-n", "3")).splitlines()) == 3
        rows = [json.loads(x) for x in (await ok(group, "--json", "status")).splitlines()]
        assert sorted(row["role"] for row in rows) == ["follower", "follower", "leader"]
        here = group.replicas[1].address
        async with group.client() as client:
            await client.register_consumer("reader", 0, replica=here)
        found = [json.loads(x) for x in (await ok(group, "--json", "consumer", "ls")).splitlines()]
        assert [(row["replica"], row["name"]) for row in found] == [(here, "reader")]
        await ok(group, "consumer", "rm", "reader", "--replica", here)
        assert await ok(group, "--json", "consumer", "ls") == ""


async def test_errors_are_one_line_and_an_exit_code(group: LocalGroup, tmp_path: Path) -> None:
    async with group:
        await group.bootstrap()
        for words, code, why in (
            (("get", "nothing"), 1, "there is no key"),
            (("get", "--file", "nothing"), 1, "is not a file of the tree"),
            (("put", "../x", "--file", str(Path(__file__))), 1, "'..'"),
            (("put", "x"), 2, "give VALUE, -"),
            (("put-tree", str(tmp_path / "none")), 2, "is not a directory"),
            (("rm", "--file", "nothing"), 1, "is not in the tree"),
        ):
            found, _, err = await run(group, *words)
            assert (found, len(err.splitlines())) == (code, 1), err
            assert why in err


async def test_keys_and_paths_as_long_as_they_may_be(group: LocalGroup, tmp_path: Path) -> None:
    longest, deep = "k" * 65_000, "/".join(["d" * 255] * 16)
    # More than a page of 2 MiB: the second begins behind a long key.
    large = [b"l" * 64_999 + bytes([number]) for number in range(40)]
    source = folder = tmp_path / "source"
    for part in deep.split("/")[:8]:
        folder = folder / part
    folder.mkdir(parents=True)
    (folder / "f").write_bytes(b"content")
    path = f"{folder.relative_to(source)}/f"
    async with group:
        await group.bootstrap()
        await ok(group, "put", longest, "value")
        assert await ok(group, "get", longest) == "value"
        await ok(group, "put-tree", str(source))
        assert await ok(group, "get", "--file", path) == "content"
        async with group.client() as client:
            for key in large:
                await client.set_key(key, b"v")
            await group.settled()
            for replica in group.replicas:
                found = [k async for k, _ in client.list_keys(stale_from=replica.address)]
                assert found == sorted([longest.encode(), *large])
                paths = await client.list_tree(recursive=True, stale_from=replica.address)
                assert paths[-1].path == path.encode()
        for words, why in (
            (("put", longest + "k", "v"), "key has 65001 bytes; allowed are 1 to 65000"),
            (("get", "--file", deep), "(4095 bytes) is not a file of the tree"),
        ):
            code, _, err = await run(group, *words)
            assert (code, len(err.splitlines())) == (1, 1), err
            assert why in err
