"""Texts as words in which spellings that look alike are equal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.trust.folding import readings, words


@pytest.mark.parametrize(
    "text",
    [
        *(
            "nude",
            "NUDE",
            "ｎｕｄｅ",
            "𝓃𝓊𝒹𝑒",
            "ⓝⓤⓓⓔ",
            "🅽🆄🅳🅴",
            "ɴᴜᴅᴇ",
            "nüdé",
            "n\u200bu\u00add\ufeffe",
            "nu\ufe0fde",
        ),
        *("ոսԁе", "ηυԁε", "ΝUDE", "nud3", "n.u.d.e!", "n u d e", "n-u-d-3", "ꓠꓴꓓꓰ", "n\u0336u\u0336d\u0336e"),
    ],
)
def test_a_word_is_read_in_every_disguise(text: str) -> None:
    assert ("nude",) in readings(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red nail, 2 apples", ("a", "red", "nail", "2", "apples")),
        ("C4 c-4", ("c", "4", "c", "4")),
        ("Straße", ("strasse",)),
        ("裸体 画", ("裸", "体", "画")),
        ("누드를", ("누", "드", "를")),
        ("हिन्दी में", ("हिन्दी", "में")),
        ("", ()),
        ("?! \u200b \u3164", ()),
    ],
)
def test_words_are_runs_of_letters_or_digits_or_single_ideographs(
    text: str, expected: tuple[str, ...]
) -> None:
    assert words(text) == expected


def test_signs_are_letters_only_within_words_that_have_letters() -> None:
    assert readings("10 1 3") == {("10", "1", "3")}
    assert ("k", "1", "ll") in readings("k1ll")
    assert {("kill",), ("klll",)} <= readings("k1ll")
    assert ("nudei",) not in readings("nude!")


@given(st.text(max_size=80))
def test_folding_any_text_is_stable(text: str) -> None:
    found = words(text)
    assert words(" ".join(found)) == found
    assert found in readings(text)
    assert all(word and not any(map(str.isspace, word)) for word in found)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20), st.data())
def test_accents_and_invisible_characters_never_hide_a_word(word: str, data: st.DataObject) -> None:
    noise = st.text(alphabet="\u0301\u0323\u200b\u200d\u2060\u00ad\ufe0f", max_size=2)
    disguised = "".join(letter + data.draw(noise) for letter in word)
    assert words(unicodedata.normalize("NFC", disguised)) == (word,)
