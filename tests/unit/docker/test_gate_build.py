"""Of what an image may be built."""

import asyncio
import io
import tarfile

import pytest
from gate.build import judge_build, written_anew
from gate.refusal import Refusal

from tests.gate import DOCKERFILE, MODEL, POLICY, archive


def test_a_build_gets_no_network():
    query = {"t": "marquee-serving:v8", "rm": "True", "pull": "False"}
    assert judge_build(query, POLICY) == {**query, "networkmode": "none"}


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"t": "marquee-airflow"},
        {"t": "marquee-serving:runtime"},
        {"t": "marquee-serving:v8", "pull": "1"},
    ],
)
def test_other_builds_are_refused(query):
    with pytest.raises(Refusal):
        judge_build(query, POLICY)


def passed(sent, piece_bytes=700):
    """Return the archive that goes to Docker, of one that comes in pieces."""

    async def pieces():
        for at in range(0, len(sent), piece_bytes):
            yield sent[at : at + piece_bytes]

    async def story():
        return b"".join([piece async for piece in written_anew(pieces(), POLICY)])

    return asyncio.run(story())


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("piece_bytes", [100, 512, 65536])
def test_the_runtime_with_a_model_is_built_whoever_has_packed_it(format, piece_bytes):
    with tarfile.open(
        fileobj=io.BytesIO(passed(archive(DOCKERFILE, *MODEL, format=format), piece_bytes))
    ) as tar:
        got = [(each.name, tar.extractfile(each).read() if each.isreg() else None) for each in tar]
        assert {(each.uid, each.mtime, each.mode) for each in tar} == {(0, 0, 0o644), (0, 0, 0o755)}
    assert got == [DOCKERFILE, *MODEL]


def test_headers_are_the_gates_own():
    # Whatever else a header says: here a name of a user, under a sum that is right again.
    header = tarfile.TarInfo("model/x")
    header.uname, header.mode = "root", 0o4755
    got = passed(archive(DOCKERFILE)[:1024] + header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with tarfile.open(fileobj=io.BytesIO(got)) as tar:
        assert (tar.getmember("model/x").mode, tar.getmember("model/x").uname) == (0o644, "")


def special(name, kind, content=b"", linkname=""):
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.size = kind, linkname, len(content)
    return (
        archive(DOCKERFILE)[:1024]
        + header.tobuf(tarfile.GNU_FORMAT)
        + content.ljust(-(-len(content) // 512) * 512, b"\0")
    )


END = bytes(1024)
CONTEXTS = {
    "nothing": b"",
    "an empty archive": END,
    "no archive": b"FROM mysql:9".ljust(512) + END,
    "another image": archive(("Dockerfile", b"FROM mysql:9\n")),
    "an image of somewhere else": archive(("Dockerfile", b"FROM 192.0.2.1:5000/x\n")),
    "a command": archive(("Dockerfile", DOCKERFILE[1] + b"RUN id\n")),
    "a parser of somewhere else": archive(("Dockerfile", b"# syntax=192.0.2.1/x\n" + DOCKERFILE[1])),
    "a part of the line": archive(("Dockerfile", b"FROM marquee-serving")),
    "nothing in it": archive(("Dockerfile", b"")),
    "a Dockerfile of another name": archive(("dockerfile", DOCKERFILE[1])),
    "model first": archive(*MODEL, DOCKERFILE),
    "a second Dockerfile": archive(DOCKERFILE, ("Dockerfile", b"FROM mysql:9\n")),
    "a second one by a detour": archive(DOCKERFILE, ("model/../Dockerfile", b"FROM mysql:9\n")),
    "a second one beside itself": archive(DOCKERFILE, ("./Dockerfile", b"FROM mysql:9\n")),
    "a file to be ignored": archive(DOCKERFILE, (".dockerignore", b"model\n")),
    "a file of the root": archive(DOCKERFILE, ("/model/x", b"")),
    "a folder that is hidden": archive(DOCKERFILE, ("model/.x", b"")),
    "a symbolic link": special("model/x", tarfile.SYMTYPE, linkname="/etc") + END,
    "a hard link": special("model/x", tarfile.LNKTYPE, linkname="Dockerfile") + END,
    "a device": special("model/x", tarfile.CHRTYPE) + END,
    "a folder with content": special("model/x", tarfile.DIRTYPE, b"x") + END,
    "a long name": special("././@LongLink", tarfile.GNUTYPE_LONGNAME, b"Dockerfile\0") + END,
    "a name in another header": special("model/x", tarfile.XHDTYPE, b"19 path=Dockerfile\n") + END,
    "a length in another header": special("model/x", tarfile.XHDTYPE, b"11 size=99\n") + END,
    "headers for all": special("model/x", tarfile.XGLTYPE, b"19 path=Dockerfile\n") + END,
    "a sparse file": special("model/x", tarfile.GNUTYPE_SPARSE, b"x") + END,
    "no end": archive(DOCKERFILE)[:1024],
    "a file that ends early": special("model/x", tarfile.REGTYPE, b"x")[:-1],
    "a wrong sum": archive(DOCKERFILE)[:1024] + b"model/x".ljust(512, b"\0") + END,
    "something behind the end": archive(DOCKERFILE) + archive(("Dockerfile", b"FROM mysql:9\n")),
}


@pytest.mark.parametrize("sent", CONTEXTS.values(), ids=CONTEXTS)
def test_another_context_is_refused(sent):
    with pytest.raises(Refusal, match="gate: "):
        passed(sent)
