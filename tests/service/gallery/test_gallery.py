"""The gallery keeps pictures, finds them, and forgets them completely."""

import asyncio
import contextlib
import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

import danqing.service.app  # noqa: F401  every table is known once all of the service is
from danqing.service.errors import ApiError
from danqing.service.gallery import manager, queries, store
from danqing.service.gallery.likeness import Likeness
from danqing.service.gallery.manager import Gallery, new_picture
from danqing.service.gallery.queries import Search
from danqing.service.gallery.words import searched, words_of
from danqing.service.jobs import queries as job_queries
from danqing.service.jobs import store as jobs
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.settings import GallerySettings, JobSettings, Settings
from danqing.service.storage.database import Database

LIMITS = GallerySettings(keep=1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()


def file(seed: int, colour: tuple[int, int, int] = (90, 90, 90), kind: str = "PNG") -> bytes:
    pixels = np.full((16, 16, 3), colour, np.uint8)
    pixels[seed % 16, (seed // 16) % 16] = 255
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def record(prompt: str, **request: Any) -> dict[str, Any]:
    return {
        "danqing": 1,
        "endpoint": "generations",
        "request": {"model": "text", "prompt": prompt, "seed": 1, **request},
        "title": prompt,
        "words": [],
    }


def keep(database: Database, owner: str, *prompts: str, limits: GallerySettings = LIMITS) -> list[int]:
    """Keep a picture of each prompt; their numbers."""
    for seed, prompt in enumerate(prompts):
        new = new_picture(file(seed), record(prompt), 0)
        database.transact(store.keep, owner, [new], limits, time.time())
    return sorted(numbers(database, owner))


def numbers(database: Database, owner: str, words: str = "", **search: Any) -> list[int]:
    wanted = Search(owner, tuple(searched(words)), **search)
    found = database.transact(lambda session: queries.page(session, wanted, limit=100, before=None, offset=0))
    assert found.total == len(found.pictures)
    return [one.number for one in found.pictures]


def test_words_of_any_script_are_found() -> None:
    assert words_of(["A red Square, n°7"]) == ["a", "red", "square", "n", "7"]
    assert words_of(["红色的方块"]) == ["红", "色", "的", "方", "块", "红色", "色的", "的方", "方块"]
    assert searched("红色 CAFÉ") == ["红色", "café"]
    assert searched("红") == ["红"]
    assert searched("ｆｕｌｌ") == ["full"]
    assert len(words_of([" ".join(map(str, range(1000)))])) == 64


def test_pictures_are_found_by_all_their_words_and_the_beginning_of_the_last(database: Database) -> None:
    first, second, third = keep(database, "anna", "a red butterfly", "a blue butter dish", "红色的方块")
    assert numbers(database, "anna", "butter") == [second, first]
    assert numbers(database, "anna", "butterf") == [first]
    assert numbers(database, "anna", "red butt") == [first]
    assert numbers(database, "anna", "butter red") == []
    assert numbers(database, "anna", "红色 方块") == [third]
    assert numbers(database, "anna", "text") == [third, second, first]
    assert numbers(database, "anna", "green") == []
    assert numbers(database, "bert", "red") == []


def test_pages_follow_each_other_and_can_be_jumped_to(database: Database) -> None:
    known = keep(database, "anna", *(f"number {number}" for number in range(25)))[::-1]

    def page(limit: int, before: int | None, offset: int) -> tuple[list[int], int, bool]:
        found = database.transact(
            lambda session: queries.page(session, Search("anna"), limit=limit, before=before, offset=offset)
        )
        return [one.number for one in found.pictures], found.total, found.has_more

    assert page(10, None, 0) == (known[:10], 25, True)
    assert page(10, known[9], 0) == (known[10:20], 25, True)
    assert page(10, None, 20) == (known[20:], 25, False)
    assert page(10, None, 99) == ([], 25, False)


def test_ratings_tags_and_albums_select(database: Database) -> None:
    first, second = keep(database, "anna", "one", "two")
    database.transact(store.change, "anna", first, 4, ["Sommer", "two"])
    assert numbers(database, "anna", rating=3) == [first]
    assert numbers(database, "anna", "sommer") == [first]
    assert numbers(database, "anna", "two") == [second, first]
    database.transact(store.change, "anna", first, None, [])
    assert numbers(database, "anna", "sommer") == []
    assert numbers(database, "anna", "one") == [first]
    album = database.transact(store.create_album, "anna", "best").number
    database.transact(store.fill_album, "anna", album, [second], [])
    assert numbers(database, "anna", album=album) == [second]
    assert [(one.name, count) for one, count in database.transact(queries.albums, "anna")] == [("best", 1)]
    with pytest.raises(ApiError, match="already"):
        database.transact(store.create_album, "anna", "best")
    database.transact(store.fill_album, "anna", album, [], [second])
    assert numbers(database, "anna", album=album) == []
    database.transact(store.delete_album, "anna", album)
    assert numbers(database, "anna") == [second, first]


def test_others_see_and_change_nothing(database: Database) -> None:
    (mine,) = keep(database, "anna", "one")
    album = database.transact(store.create_album, "anna", "best").number
    for attempt in (
        lambda session: store.find(session, "bert", mine),
        lambda session: queries.content(session, "bert", mine),
        lambda session: store.change(session, "bert", mine, 5, None),
        lambda session: store.find_album(session, "bert", album),
        lambda session: store.fill_album(session, "bert", album, [], []),
        lambda session: store.delete_album(session, "bert", album),
        lambda session: store.find(session, "anna", 2**70),
    ):
        with pytest.raises(ApiError, match="no such"):
            database.transact(attempt)
    theirs = database.transact(store.create_album, "bert", "stolen").number
    with pytest.raises(ApiError, match="no picture"):
        database.transact(store.fill_album, "bert", theirs, [mine], [])
    assert database.transact(store.stored, "bert", [mine]) == []
    assert database.transact(queries.in_order, "bert", [mine]) == []


def test_the_same_file_is_kept_once_and_limits_hold(database: Database) -> None:
    keep(database, "anna", "one", "two")
    keep(database, "anna", "one", "two")
    assert database.transact(store.usage, "anna").pictures == 2
    keep(database, "bert", *"abcde", limits=GallerySettings(keep=1, pictures=3))
    assert database.transact(store.usage, "bert").pictures == 3
    size = len(file(0))
    keep(database, "carl", *"abcde", limits=GallerySettings(keep=1, bytes=max(1024, 2 * size)))
    assert database.transact(store.usage, "carl").bytes <= max(1024, 2 * size)


def test_nothing_is_left_of_what_is_deleted(database: Database) -> None:
    first, second = keep(database, "anna", "a secret wish", "another")
    album = database.transact(store.create_album, "anna", "best").number
    database.transact(store.fill_album, "anna", album, [first, second], [])
    database.transact(store.remove, [first])
    for table in ("pictures", "files", "words", "album_pictures"):
        left = database.transact(
            lambda session, table=table: session.scalars(text(f"select number from gallery_{table}")).all()
        )
        assert set(left) == {second}, table
    (third,) = set(keep(database, "anna", "a secret wish")) - {second}
    assert third > second  # numbers are not used again


def test_expired_pictures_are_deleted_once_the_registry_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path))
    monkeypatch.setattr(manager, "_SWEEP_SECONDS", 0.01)
    broken = tmp_path / "registry.sqlite"
    broken.write_bytes(b"this is not a database" * 100)
    settings = Settings(models={"gan": "gan"}, gallery=LIMITS, marks="eu", data=tmp_path)
    old = replace(new_picture(file(1), record("a wish"), 0), mark="its id")

    async def sweep() -> None:
        database = Database(settings.database_url)
        await database.start()
        await database.run(store.keep, "anna", [old], LIMITS, 0.0)
        gallery = Gallery(settings, database, EncodePool(), jobs.drop_pictures)
        await gallery.start()
        await asyncio.sleep(0.2)
        assert numbers(database, "anna")
        broken.unlink()
        async with asyncio.timeout(10):
            while numbers(database, "anna"):
                await asyncio.sleep(0.02)
        await gallery.stop()
        await database.stop()

    asyncio.run(sweep())


def test_the_copy_of_a_job_is_deleted_with_the_picture_at_the_end_of_its_days(tmp_path: Path) -> None:
    settings = Settings(models={"gan": "gan"}, gallery=LIMITS, data=tmp_path)
    content, days = file(1), JobSettings(keep=7)
    with contextlib.closing(Database(settings.database_url)) as database:
        database.migrate()
        new = jobs.NewJob(jobs.new_id(), "anna", "", "generations", "gan", 2, "{}", "{}", "f")
        database.transact(jobs.accept, new, days, 1.0)
        (claim,) = database.transact(jobs.claim, "a", ["gan"], 9, 9.0, 1.0)
        both = [("image/png", content)] * 2
        database.transact(jobs.succeed, claim, {"data": []}, both, time.time())
        old = new_picture(content, record("a wish"), 1, job=new.id)
        database.transact(store.keep, "anna", [old], LIMITS, 1.0)
        gallery = Gallery(settings, database, EncodePool(), jobs.drop_pictures)
        asyncio.run(gallery.sweep())
        assert numbers(database, "anna") == []
        assert database.transact(job_queries.picture, "anna", new.id, 0).content == content
        with pytest.raises(ApiError, match="has no picture 1"):
            database.transact(job_queries.picture, "anna", new.id, 1)


def test_pictures_that_look_alike_come_first_also_after_deletions(database: Database) -> None:
    colours = [(250, 0, 0), (240, 10, 10), (0, 0, 250), (0, 250, 0), (10, 10, 240)]
    for place, colour in enumerate(colours):
        new = new_picture(file(place, colour), record("x"), 0)
        database.transact(store.keep, "anna", [new], LIMITS, time.time())
    red, pink, blue, _, sky = sorted(numbers(database, "anna"))

    async def work() -> None:
        likeness = Likeness(database)

        async def alike(number: int) -> list[int]:
            vector = await database.run(lambda session: store.find(session, "anna", number).vector)
            return await likeness.nearest("anna", vector, 2)

        assert await alike(red) == [red, pink]
        assert await alike(blue) == [blue, sky]
        await database.run(store.remove, [pink])
        assert pink not in await alike(red)
        assert await likeness.nearest("bert", b"\x00" * 192, 5) == []

    asyncio.run(work())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_described_from_its_file(kind: str) -> None:
    new = new_picture(file(3, kind=kind), record("a cat", label="7"), 2, job="job_1")
    assert (new.width, new.height, new.media_type) == (16, 16, f"image/{kind.lower()}")
    assert json.loads(new.settings)["index"] == new.place == 2
    assert set(new.words) >= {"a", "cat", "text"}
    assert Image.open(io.BytesIO(new.thumbnail)).size == (16, 16)
    assert len(new.vector) == 192
