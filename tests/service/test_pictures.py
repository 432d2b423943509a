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
from danqing.service.fairness.fair_share import Line
from danqing.service.pictures.encode_pool import Look, Pictures, filled


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
        pictures = Pictures(tmp_path)
        files = await pictures.render(pixels, Look((side + 1, side)))
        await pictures.stop()
        return files

    assert np.array_equal(np.stack([opened(file) for file in asyncio.run(render())]), pixels)


def test_another_size_is_resampled_and_keeps_its_alpha() -> None:
    pixels = np.full((4, 6, 4), (200, 100, 0, 255), np.uint8)
    pixels[:, :3] = (0, 0, 0, 0)
    large = opened(Look((60, 40)).render(pixels))
    assert large.shape == (40, 60, 4)
    assert (large[:, :20, 3] == 0).all()
    assert (large[:, 50:] == (200, 100, 0, 255)).all()
    shown = large[:, 30:36]  # at the edge
    assert (shown[:, :, 0] > 180).all()  # what is hidden does not bleed
    opaque = opened(Look((6, 4), opaque=True).render(pixels))
    assert opaque.shape == (4, 6, 3)
    assert (opaque[:, :3] == 255).all()
    jpeg = opened(Look((6, 4), "jpeg").render(pixels))
    assert jpeg.shape == (4, 6, 3)
    assert (jpeg[:, 0] > 240).all()


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_compression_is_the_quality_of_the_file(format: str) -> None:
    pixels = noise(1, 64, 64, 3)[0]
    sizes = [len(Look((64, 64), format, compression=c).render(pixels)) for c in (0, 50, 100)]  # type: ignore[arg-type]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 4


def test_an_answer_holds_its_pictures_byte_by_byte(tmp_path: Path) -> None:
    files = [os.urandom(size) for size in (0, 1, 200_000, 600_001)]
    words = 'a "b64_json": "" that somebody wrote'

    async def pack() -> list[bytes]:
        pictures = Pictures(tmp_path)
        packed = [*await pictures.pack(files[:2]), *await pictures.pack(files[2:])]
        await pictures.stop()
        return packed

    text = json.dumps({"user": words, "data": [{"b64_json": ""} for _ in files]}).encode()
    answer = json.loads(filled(text, asyncio.run(pack())))
    assert answer["user"] == words
    assert [base64.b64decode(one["b64_json"]) for one in answer["data"]] == files


def test_stored_pictures_come_back_until_they_are_an_hour_old(tmp_path: Path) -> None:
    async def walk() -> None:
        folder = tmp_path / "pictures"
        pictures = Pictures(folder)
        await pictures.start()
        old, new = await pictures.keep([b"old", b"new"], "png")
        assert [await pictures.read(name) for name in (old, new)] == [b"old", b"new"]
        os.utime(folder / old, (time.time() - 3601,) * 2)
        assert await pictures.read(old) is None
        stranger = folder / "notes.txt"
        stranger.write_text("not ours")
        os.utime(stranger, (0, 0))
        await pictures.stop()
        again = Pictures(folder)  # as after a restart
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
    pixels, look, order = noise(1, 80, 80, 1), Look((80, 80)), []

    async def walk() -> None:
        pictures = Pictures(tmp_path)
        pictures._free = 1

        async def ask(owner: str, count: int) -> None:
            await pictures.render(np.repeat(pixels, count, axis=0), look, owner=owner)
            order.append(owner)

        greedy = [asyncio.create_task(ask("greedy", 10)) for _ in range(5)]
        await asyncio.sleep(0)
        modest = asyncio.create_task(ask("modest", 1))
        await asyncio.sleep(0)
        greedy[0].cancel()  # in the middle of its work
        greedy[3].cancel()
        await asyncio.gather(*greedy, modest, return_exceptions=True)
        assert order == ["greedy", "modest", "greedy", "greedy"]
        while pictures._free != 1:
            await asyncio.sleep(0)
        assert not pictures._waiting
        await pictures.stop()

    asyncio.run(asyncio.wait_for(walk(), 30))


def test_work_that_waits_is_bounded_and_nobody_has_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danqing.service.pictures.encode_pool._MOST_WORK", 10_000)
    store = Pictures(tmp_path)
    most = 10_000 * store._free
    large = store.room("one", 10 * most)  # alone
    with pytest.raises(ApiError) as refused:
        store.room("other", 1)
    assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "5")
    large.leave()
    large.leave()
    taken = [store.room("one", most // 100) for _ in range(80)]
    with pytest.raises(ApiError):
        store.room("one", most // 100)
    other = store.room("other", most // 10)
    for room in (*taken, other):
        room.leave()
    assert store._shares.taken == 0
    asyncio.run(store.stop())


def test_whoever_waits_for_room_is_served_as_they_came_however_much_it_is() -> None:
    served: list[str] = []

    async def ask(line: Line, name: str, amount: int) -> None:
        async with line.turn(amount):
            served.append(name)
            assert line.taken <= 10 or line.taken == amount
            for _ in range(5):
                await asyncio.sleep(0)

    async def walk() -> None:
        line = Line(10)
        small = [asyncio.create_task(ask(line, "small", 2)) for _ in range(20)]
        await asyncio.sleep(0)
        left = asyncio.create_task(ask(line, "left", 99))  # more than there is, and nobody waits for it
        large = asyncio.create_task(ask(line, "large", 10))
        huge = asyncio.create_task(ask(line, "huge", 99))
        later = [asyncio.create_task(ask(line, "later", 2)) for _ in range(20)]
        while served != ["small"] * 20:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait_for(asyncio.gather(*small, large, huge, *later), 30)
        assert served == ["small"] * 20 + ["large", "huge"] + ["later"] * 20
        assert line.taken == 0

    asyncio.run(walk())


def test_stored_bytes_are_bounded_also_where_many_store_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danqing.service.pictures.encode_pool._MOST_BYTES", 10_000)

    async def walk() -> None:
        store = Pictures(tmp_path)
        await store.start()
        asked = (store.keep([bytes(1000)], "png", owner) for owner in 20 * ["one"] + 2 * ["other"])
        found = await asyncio.gather(*asked, return_exceptions=True)
        kept = [not isinstance(one, ApiError) for one in found]
        assert 7 <= sum(kept[:20]) <= 8
        assert any(kept[20:])
        await store.stop()
        again = Pictures(tmp_path)
        await again.start()
        assert again._stored.taken == sum(kept) * 1000
        await again.stop()

    asyncio.run(walk())


def test_a_disk_that_takes_nothing_leaves_nothing_behind(tmp_path: Path) -> None:
    async def walk() -> None:
        folder = tmp_path / "pictures"
        pictures = Pictures(folder)
        await pictures.start()
        folder.rmdir()
        with pytest.raises(ApiError) as refused:
            await pictures.keep([b"one", b"two"], "webp")
        assert refused.value.status == 507
        assert refused.value.headers["x-should-retry"] == "false"
        await pictures.stop()

    asyncio.run(walk())
