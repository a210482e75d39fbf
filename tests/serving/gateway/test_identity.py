"""Pseudonyms are those of the standard, the same everywhere, and their key is nobody else's."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from recsys.errors import ConfigError
from serving.gateway.pseudonyms import UserPseudonyms

KNOWN = UserPseudonyms(key=b"\x0b" * 20, store_raw=False)
ANSWER = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
"""RFC 4231, test case 1"""


def test_the_hash_is_hmac_sha256():
    assert KNOWN.stored("Hi There") == ANSWER[:32]
    assert KNOWN.logged("Hi There") == ANSWER[:16]


def test_one_setting_says_what_is_stored_and_logs_never_see_the_id():
    raw = UserPseudonyms(key=KNOWN.key, store_raw=True)
    assert raw.stored("Hi There") == "Hi There"
    assert raw.logged("Hi There") == KNOWN.logged("Hi There")


def test_another_user_or_another_key_is_another_pseudonym():
    names = {KNOWN.stored(user) for user in ("a", "b", "\N{SNOWMAN}", "\ud800", "")}
    assert len(names) == 5
    assert UserPseudonyms(key=b"\x0c" * 20, store_raw=False).stored("a") not in names


def test_the_key_is_not_printed():
    assert "key" not in repr(KNOWN)


def test_the_key_is_made_once_for_its_owner_only(tmp_path):
    path = tmp_path / "folder" / "key"
    one = UserPseudonyms.from_file(path, store_raw=False)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["key"]
    assert UserPseudonyms.from_file(path, store_raw=False) == one
    assert UserPseudonyms.from_file(tmp_path / "other", store_raw=False).key != one.key


def test_gateways_that_start_at_once_have_the_same_key(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: UserPseudonyms.from_file(tmp_path / "key", store_raw=False), range(8)))
    assert len({one.key for one in found}) == 1


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ("00" * 32, 0o640, "can be read by others"),
        ("no key", 0o600, "holds no hexadecimal key"),
        ("caf\xe9", 0o600, "holds no hexadecimal key"),
        ("00" * 15, 0o600, "has 15 bytes; give at least 16"),
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path, text, mode, sentence):
    path = tmp_path / "key"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=sentence):
        UserPseudonyms.from_file(path, store_raw=True)
