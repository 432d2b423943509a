"""PO files, and finding the template that a message was made from."""

import re
import time
from pathlib import Path

import pytest

from danqing import locale
from danqing.errors import ConfigError
from danqing.families import cannot, parse_config
from danqing.families.abilities import Encodes
from danqing.learners.abilities import Segments
from danqing.locale.catalogue import Catalogue, is_specific, read_entries
from danqing.locale.line_breaks import divide_line

UTF8 = ("utf-8", "utf-8")


def test_a_po_file_is_read_with_escapes_continued_strings_and_comments():
    text = (
        '# note\nmsgid ""\nmsgstr "x"\n\nmsgid "a \\"b\\" "\n"c"\nmsgstr ""\n"甲\\n乙"\n\n'
        'msgid "d"\nmsgstr ""\n'
    )
    assert read_entries(text) == {'a "b" c': "甲\n乙"}


@pytest.mark.parametrize("line", ["msgid a", 'msgctxt "a"', '"a', 'msgid_plural "a"'])
def test_what_is_not_of_a_po_file_is_an_error(line):
    with pytest.raises(ValueError, match="Line 1"):
        read_entries(line)


def test_placeholders_are_filled_in_where_the_translation_has_them():
    known = Catalogue(
        {"{path} has no {split} split: it has {known}.": "{path} 没有 {split} 划分，有 {known}。"}
    )
    assert known.translate("a b.zip has no test split: it has train.") == "a b.zip 没有 test 划分，有 train。"
    assert known.translate("something else") == "something else"


def test_the_most_specific_template_is_used():
    known = Catalogue(
        {"{name} is damaged.": "{name} 已损坏。", "The cache {name} is damaged.": "缓存 {name} 已损坏。"}
    )
    assert known.translate("The cache a is damaged.") == "缓存 a 已损坏。"


def test_a_number_matches_only_digits():
    known = Catalogue({"{n:,} images in {m:,} folders": "{m} 个文件夹中 {n} 张图片"})
    assert known.translate("1,200 images in 3 folders") == "3 个文件夹中 1,200 张图片"
    assert known.translate("many images in 3 folders") == "many images in 3 folders"


def test_a_colon_in_brackets_does_not_divide_a_message():
    known = Catalogue(
        {
            "{n:,} used": "使用 {n} 张",
            "{n:,} skipped ({reasons})": "跳过 {n} 张（{reasons}）",
            "The file is truncated: get a complete copy.": "文件被截断：请获取完整的副本。",
        }
    )
    text = "27 used, 1 skipped (1 × The file is truncated: get a complete copy)"
    assert known.translate(text) == "使用 27 张，跳过 1 张（1 × 文件被截断：请获取完整的副本）"


def test_a_value_that_contains_the_separator_is_found():
    known = Catalogue(
        {
            "{message} '{command} --help' shows how.": "{message}见“{command} --help”。",
            "No command {name}.": "没有命令 {name}。",
        }
    )
    assert (
        known.translate("No command 'a'. 'danqing --help' shows how.") == "没有命令 'a'。见“danqing --help”。"
    )


def test_messages_within_messages_are_translated():
    known = Catalogue(
        {
            "{path} holds no images ({why}): {advice}.": "{path} 中没有图片（{why}）：{advice}。",
            "The file ends too early.": "文件不完整。",
            "name one of the zip files": "请给出其中一个 zip 文件",
            "{n:,} skipped ({reasons})": "跳过 {n} 张（{reasons}）",
            "{n:,} used": "使用 {n} 张",
        }
    )
    assert known.translate("x holds no images (3 × The file ends too early): name one of the zip files.") == (
        "x 中没有图片（3 × 文件不完整）：请给出其中一个 zip 文件。"
    )
    assert known.translate("a.png: The file ends too early.") == "a.png：文件不完整。"
    assert (
        known.translate("8 used, 2 skipped (The file ends too early)") == "使用 8 张，跳过 2 张（文件不完整）"
    )
    assert known.translate("first\n  8 used") == "first\n  使用 8 张"


def test_what_a_model_cannot_do_is_said_in_chinese():
    known = locale.catalogue("zh")
    said = cannot(parse_config({"family": "embedder"}), "segment images", Segments)
    assert known.translate(said) == "特征模型 不能分割图片：请使用 分割模型。"
    assert "或" in known.translate(cannot(parse_config({"family": "classifier"}), "encode images", Encodes))
    abilities = {
        found
        for file in (Path(locale.__file__).parents[1]).rglob("*.py")
        for found in re.findall(r'cannot\((?:[\w.]+, )?"([^"{]+)"', file.read_text(encoding="utf-8"))
    }
    assert len(abilities) > 10
    assert not [one for one in abilities if one not in known.exact]


def test_several_messages_in_one_line_are_told_apart():
    known = Catalogue(
        {
            "It has no mark. It may be generated.": "它没有标识，但可能是生成的。",
            "sizes; shapes": "尺寸；形状",
            "none": "无",
        }
    )
    assert (
        known.translate("a.png: none. It has no mark. It may be generated.")
        == "a.png：无。它没有标识，但可能是生成的。"
    )
    assert known.translate("sizes; shapes; MIT") == "尺寸；形状；MIT"
    assert known.translate("None.") == "无。"


def test_a_value_of_one_word_is_a_name_and_stays():
    known = Catalogue({"There is no label {label}.": "没有标签 {label}。", "Images": "图片"})
    assert known.translate("There is no label Images.") == "没有标签 Images。"


def test_braces_of_the_text_itself_are_doubled_in_templates():
    known = Catalogue({'Write {{"prompt": {text}}}.': '请写 {{"prompt": {text}}}。'})
    assert known.translate('Write {"prompt": "a"}.') == '请写 {"prompt": "a"}。'


def test_templates_that_would_match_anything_are_not_used():
    assert not is_specific("{a} in {b}")
    assert not is_specific("{a}: {b}")
    assert is_specific("{n:,} of {m:,}")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_GB.UTF-8"}, "en"),
        ({"LANG": "en_GB.UTF-8", "LC_ALL": "zh_CN"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "DANQING_LANG": "en"}, "en"),
        ({"LC_ALL": "C", "DANQING_LANG": "ZH"}, "zh"),
        ({"DANQING_LANG": "zh-Hans"}, "zh"),
        ({"DANQING_LANG": " "}, "en"),
    ],
)
def test_the_variable_decides_and_then_those_of_the_system(environment, expected):
    assert locale.wanted_language(environment, UTF8) == expected


@pytest.mark.parametrize(
    "encodings", [("ascii", "utf-8"), ("utf-8", "latin-1"), ("utf-8", None), ("none such",)]
)
def test_english_is_used_where_chinese_cannot_be_shown(encodings):
    assert locale.wanted_language({"DANQING_LANG": "zh"}, encodings) == "en"
    assert locale.wanted_language({"DANQING_LANG": "zh"}, ("gb18030", "gbk")) == "zh"


def test_a_language_that_is_not_known_is_an_error():
    with pytest.raises(ConfigError, match="DANQING_LANG=fr"):
        locale.wanted_language({"DANQING_LANG": "fr"}, UTF8)


def test_english_does_not_read_the_catalogue():
    locale.catalogue.cache_clear()
    assert locale.translate("No problems found.") == "No problems found."
    assert locale.catalogue.cache_info().currsize == 0


def test_the_catalogue_is_read_within_30_ms_of_processor_time():
    times = []
    for _ in range(5):
        locale.catalogue.cache_clear()
        started = time.process_time()
        locale.catalogue("zh").exact.get("")
        times.append(time.process_time() - started)
    assert min(times) < 0.030


def test_lines_of_chinese_end_between_characters_but_not_before_a_comma():
    text = "训练文件夹；已有训练时会断点续训（danqing train）。"
    places = divide_line(text, 12)
    lines = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    assert lines == ["训练文件夹；", "已有训练时会", "断点续训", "（danqing ", "train）。"]


def test_a_word_wider_than_the_line_is_cut():
    text = "见 abcdefghijklmnop 的说明"
    places = divide_line(text, 10)
    lines = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    assert "".join(lines) == text
    assert all(len(line.rstrip()) <= 10 for line in lines)
