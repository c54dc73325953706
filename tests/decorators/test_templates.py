"""Key templates: what they take, what they refuse, and that no argument can pass for another key."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from decimal import Decimal
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercast.decorators import build_cache_key, cached
from tiercast.errors import KeyTemplateError
from tiercast.keys import compile_glob

pytestmark = pytest.mark.usefixtures("manager")


def key_of(template, function, *args, **kwargs):
    return cached(key=template)(function).cache_key(*args, **kwargs)


def test_positional_and_keyword_arguments_make_one_key():
    def get_user(user_id, verbose=False): ...

    keys = {key_of("user:{user_id}:{verbose}", get_user, *args, **kwargs) for args, kwargs in [
        (("123",), {}), ((), {"user_id": "123"}), ((123,), {"verbose": False}), (("123", False), {}),
    ]}  # fmt: skip
    assert keys == {"user:123:False"}


def test_fields_may_be_attributes_items_positions_defaults_and_formats():
    def report(user, /, when, *rest, page=1, **options): ...

    user = SimpleNamespace(id=7, address={"city": "Köln"}, groups=["a", "b"])
    when = dt.date(2024, 5, 1)
    made = {
        template: key_of(template, report, user, when, "x", lang="de")
        for template in (
            "r:{user.id}", "r:{user.address[city]}", "r:{user.groups[1]}", "r:{when}", "r:{when:%Y}", "r:{1}", "r:{2}",
            "r:{page}", "r:{page:03d}", "r:{lang}", "r:{user.id!r}", "r:{{x}}:{page}",
        )
    }  # fmt: skip
    assert made == {
        "r:{user.id}": "r:7",
        "r:{user.address[city]}": "r:Köln",
        "r:{user.groups[1]}": "r:b",
        "r:{when}": "r:2024-05-01",
        "r:{when:%Y}": "r:2024",
        "r:{1}": "r:2024-05-01",
        "r:{2}": "r:x",
        "r:{page}": "r:1",
        "r:{page:03d}": "r:001",
        "r:{lang}": "r:de",
        "r:{user.id!r}": "r:7",
        "r:{{x}}:{page}": "r:{x}:1",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (123, "123"), ("123", "123"), (None, "None"), (True, "True"), (1.5, "1.5"), (b"abc", "abc"),
        (Decimal("1.50"), "1.50"), (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (dt.datetime(2024, 1, 2, 3, 4, tzinfo=dt.UTC), "2024-01-02T03%3A04%3A00+00%3A00"), (dt.timedelta(hours=1), "1%3A00%3A00"),
        (enum.Enum("Color", {"RED": "red"}).RED, "red"), ({"b": 1, "a": 2}, "dict('a'=2,'b'=1)"), ("", ""),
    ],
)  # fmt: skip
def test_a_value_renders_as_people_call_it(value, expected):
    assert build_cache_key("{x}", kwargs={"x": value}) == expected
    assert key_of("{x}:", lambda x: None, value) == f"{expected}:"


@pytest.mark.parametrize(
    "odd", ["1:2", "*", "a/b", "a|b", "?", "[x]", "{x}", "a b", "%2A", "\\", "@2", "#", "\x00", "\ud800"]
)
def test_separators_and_glob_characters_inside_an_argument_are_escaped(odd):
    """The template's own separators stay; what an argument brings cannot pass for them."""
    key = key_of("user:{user_id}:profile", lambda user_id: None, odd)
    assert key.startswith("user:")
    assert key.endswith(":profile")
    assert not set(key.removeprefix("user:").removesuffix(":profile")) & set(":/|*?[]{}\\@# \x00\ud800")
    assert key == build_cache_key("user:{user_id}:profile", kwargs={"user_id": odd})


TEXT = st.text(alphabet=":/|*-_x1%2FD[]{}\\ a", max_size=6)


@given(
    st.tuples(TEXT, TEXT),
    st.tuples(TEXT, TEXT),
    st.sampled_from(["{a}:{b}", "k/{a}-{b}", "{a}x{b}:", "{a}%:{b}", "{a}: {b}"]),
)
def test_different_arguments_never_make_one_key(first, second, template):
    def f(a, b): ...

    keys = [build_cache_key(template, kwargs=dict(zip("ab", each, strict=True))) for each in (first, second)]
    assert (keys[0] == keys[1]) == (first == second)


@given(st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.binary(), st.dates(), st.lists(st.integers())))
def test_the_compiled_template_and_the_interpreted_one_agree(value):
    decorated = cached(key="a:{x}-{y}:{x}")(lambda x, y: None)
    assert decorated.cache_key(value, 1) == build_cache_key("a:{x}-{y}:{x}", kwargs={"x": value, "y": 1})


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("user:{usr_id}", "names 'usr_id', which is no parameter of the function; did you mean 'user_id'?"),
        ("user:{3}", "names position 3, but the function takes 2 by position"),
        ("user:{user_id", "expected '}'"),
        ("user:{}", "no parameter's name"),
        ("user:{user_id!x}", "no parameter's name"),
        ("user:{user_id:{verbose}}", "no parameter's name"),
        ("{user_id}{verbose}", "nothing stands between two fields"),
        ("{user_id}0{verbose}", "does not part two fields"),
        ("", "must not be empty"),
    ],
)
def test_a_wrong_template_fails_when_the_decorator_runs(template, says):
    def get_user(user_id, verbose=False): ...

    with pytest.raises(KeyTemplateError) as caught:
        cached(key=template)(get_user)
    assert says in str(caught.value)
    assert repr(template) in str(caught.value) or not template


@pytest.mark.parametrize(
    ("template", "prefix", "says"),
    [
        (None, "", "template must be a str, not None"),
        (5, "", "must be a str, not 5"),
        ("k", 5, "prefix of a key must be"),
    ],
)
def test_a_template_and_a_prefix_are_text(template, prefix, says):
    with pytest.raises(TypeError, match=says):
        build_cache_key(template, prefix=prefix)


def test_the_error_names_the_function():
    def get_user(user_id): ...

    with pytest.raises(KeyTemplateError, match=r"get_user names 'id'"):
        cached(key="user:{id}")(get_user)
    with pytest.raises(KeyTemplateError, match=r"get_user names 'id'"):
        cached(tags=["user:{id}"])(get_user)


def test_an_object_without_a_text_of_its_own_is_refused_with_the_parameter():
    class User:
        id = 1

    def get(a, user): ...

    with pytest.raises(TypeError, match=r"parameter 'user' of .*get cannot be part of a key: .*\{parameter\.id\}"):
        key_of("user:{a}:{user}", get, 1, User())
    with pytest.raises(TypeError, match="parameter 'user'"):
        cached(key="user:{1}")(get)(1, User())
    assert key_of("user:{user.id}", get, 1, User()) == "user:1"


def test_a_name_may_come_by_keywords_and_is_missed_at_the_call():
    decorated = cached(key="q:{term}")(lambda **options: None)
    assert decorated.cache_key(term="x y") == "q:x%20y"
    with pytest.raises(KeyTemplateError, match=r"names 'term', which the call does not give; did you mean 'terms'"):
        decorated.cache_key(terms="x")


def test_build_cache_key_takes_positions_and_a_prefix():
    assert build_cache_key("user:{0}:{page}", ("a:b",), {"page": 2}, prefix="app") == "app:user:a%3Ab:2"
    assert build_cache_key("user:{0}", (1,), prefix="app:") == "app:user:1"
    with pytest.raises(KeyTemplateError, match="names 'user_id'"):
        build_cache_key("user:{user_id}")
    with pytest.raises(TypeError, match="argument 'x' cannot be part of a key"):
        build_cache_key("{x}", kwargs={"x": object()})


@given(st.text(min_size=1))
def test_the_pattern_of_a_template_matches_every_key_it_makes(value):
    decorated = cached(key="user:[{user_id}]*{page}")(lambda user_id, page: None)
    glob = compile_glob(decorated._tiercast_site.recipe.key.glob)
    assert glob.match(decorated.cache_key(value, 1))
    assert not glob.match("user:x1")


def test_a_version_parts_the_keys_and_cannot_be_forged():
    def get(user_id): ...

    assert cached(key="user:{user_id}", version=2)(get).cache_key(1) == "user:1@2"
    assert cached(key="user:{user_id}")(get).cache_key("1@2") == "user:1%402"
    assert '@v%7B%7D"' in cached(version='v{}"')(get).cache_key(1)
    with pytest.raises(TypeError, match="version"):
        cached(version=1.5)(get)
