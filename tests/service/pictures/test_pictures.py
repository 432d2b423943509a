"""Pixels as files: exact where nothing is asked, kept for an hour, never half written."""

import asyncio
import base64
import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danqing.service.errors import ApiError
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.pictures.encoding import OutputFormat, fill_pictures
from danqing.service.pictures.hosted import HostedPictures


def noise(n: int, height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def opened(file: bytes) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(file)))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("n", "side"), [(2, 9), (3, 150)])  # at once, and in a thread
def test_a_picture_of_its_own_size_is_exact(channels: int, n: int, side: int, tmp_path: Path) -> None:
    pixels = noise(n, side, side + 1, channels)

    async def render() -> list[bytes]:
        pool = EncodePool()
        files = await pool.encode(pixels, OutputFormat((side + 1, side)))
        pool.stop()
        return files

    assert np.array_equal(np.stack([opened(file) for file in asyncio.run(render())]), pixels)


def test_another_size_is_resampled_and_keeps_its_alpha() -> None:
    pixels = np.full((4, 6, 4), (200, 100, 0, 255), np.uint8)
    pixels[:, :3] = (0, 0, 0, 0)
    large = opened(OutputFormat((60, 40)).encode(pixels))
    assert large.shape == (40, 60, 4)
    assert (large[:, :20, 3] == 0).all()
    assert (large[:, 50:] == (200, 100, 0, 255)).all()
    shown = large[:, 30:36]  # at the edge
    assert (shown[:, :, 0] > 180).all()  # what is hidden does not bleed
    opaque = opened(OutputFormat((6, 4), opaque=True).encode(pixels))
    assert opaque.shape == (4, 6, 3)
    assert (opaque[:, :3] == 255).all()
    jpeg = opened(OutputFormat((6, 4), "jpeg").encode(pixels))
    assert jpeg.shape == (4, 6, 3)
    assert (jpeg[:, 0] > 240).all()


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_compression_is_the_quality_of_the_file(format: str) -> None:
    pixels = noise(1, 64, 64, 3)[0]
    sizes = [len(OutputFormat((64, 64), format, compression=c).encode(pixels)) for c in (0, 50, 100)]  # type: ignore[arg-type]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 4


def test_an_answer_holds_its_pictures_byte_by_byte(tmp_path: Path) -> None:
    files = [os.urandom(size) for size in (0, 1, 200_000, 600_001)]
    words = 'a "b64_json": "" that somebody wrote'

    async def pack() -> list[bytes]:
        pool = EncodePool()
        packed = [*await pool.to_base64(files[:2]), *await pool.to_base64(files[2:])]
        pool.stop()
        return packed

    text = json.dumps({"user": words, "data": [{"b64_json": ""} for _ in files]}).encode()
    answer = json.loads(fill_pictures(text, asyncio.run(pack())))
    assert answer["user"] == words
    assert [base64.b64decode(one["b64_json"]) for one in answer["data"]] == files


def test_stored_pictures_come_back_until_they_are_an_hour_old(tmp_path: Path) -> None:
    async def walk() -> None:
        folder = tmp_path / "pictures"
        pictures = HostedPictures(folder)
        await pictures.start()
        old, new = await pictures.store([b"old", b"new"], "png")
        assert [await pictures.read(name) for name in (old, new)] == [b"old", b"new"]
        os.utime(folder / old, (time.time() - 3601,) * 2)
        assert await pictures.read(old) is None
        stranger = folder / "notes.txt"
        stranger.write_text("not ours")
        os.utime(stranger, (0, 0))
        await pictures.stop()
        again = HostedPictures(folder)  # as after a restart
        await again.start()
        assert not (folder / old).exists()
        assert stranger.exists()
        assert await again.read(new) == b"new"
        (tmp_path / "secret.png").write_bytes(b"secret")
        for name in ("../secret.png", "notes.txt", f"{'a' * 32}.png", "", "\0", f"{new}/", f"{new}\n"):
            assert await again.read(name) is None
        await again.stop()

    asyncio.run(walk())


def test_owners_take_turns_and_whoever_leaves_keeps_no_turn(tmp_path: Path) -> None:
    pixels, look, order = noise(1, 80, 80, 1), OutputFormat((80, 80)), []

    async def walk() -> None:
        pool = EncodePool(threads=1)

        async def ask(owner: str, count: int) -> None:
            await pool.encode(np.repeat(pixels, count, axis=0), look, owner=owner)
            order.append(owner)

        greedy = [asyncio.create_task(ask("greedy", 10)) for _ in range(5)]
        await asyncio.sleep(0)
        modest = asyncio.create_task(ask("modest", 1))
        await asyncio.sleep(0)
        greedy[0].cancel()  # in the middle of its work
        greedy[3].cancel()
        await asyncio.gather(*greedy, modest, return_exceptions=True)
        assert order == ["modest", "greedy", "greedy", "greedy"]  # the owner who was served least is next
        while pool.turns.in_use:
            await asyncio.sleep(0)
        assert not pool.turns.waiting
        pool.stop()

    asyncio.run(asyncio.wait_for(walk(), 30))


def test_work_that_waits_is_bounded_and_nobody_has_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danqing.service.pictures.encode_pool.MOST_WORK", 10_000)
    pool = EncodePool(threads=2)
    most = 20_000
    large = pool.reserve("one", 10 * most)  # alone
    with pytest.raises(ApiError) as refused:
        pool.reserve("other", 1)
    assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "5")
    large.release()
    large.release()
    taken = [pool.reserve("one", most // 100) for _ in range(80)]
    with pytest.raises(ApiError):
        pool.reserve("one", most // 100)
    other = pool.reserve("other", most // 10)
    for room in (*taken, other):
        room.release()
    assert pool.share.held == 0
    pool.stop()


def test_stored_bytes_are_bounded_also_where_many_store_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danqing.service.pictures.hosted.MOST_BYTES", 10_000)

    async def walk() -> None:
        store = HostedPictures(tmp_path)
        await store.start()
        asked = (store.store([bytes(1000)], "png", owner) for owner in 20 * ["one"] + 2 * ["other"])
        found = await asyncio.gather(*asked, return_exceptions=True)
        kept = [not isinstance(one, ApiError) for one in found]
        assert 7 <= sum(kept[:20]) <= 8
        assert any(kept[20:])
        await store.stop()
        again = HostedPictures(tmp_path)
        await again.start()
        assert again.share.held == sum(kept) * 1000
        await again.stop()

    asyncio.run(walk())


def test_a_disk_that_takes_nothing_leaves_nothing_behind(tmp_path: Path) -> None:
    async def walk() -> None:
        folder = tmp_path / "pictures"
        pictures = HostedPictures(folder)
        await pictures.start()
        folder.rmdir()
        with pytest.raises(ApiError) as refused:
            await pictures.store([b"one", b"two"], "webp")
        assert refused.value.status == 507
        assert refused.value.headers["x-should-retry"] == "false"
        await pictures.stop()

    asyncio.run(walk())
