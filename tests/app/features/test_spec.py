"""The feature spec: what a file may say, and errors that name the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import SpecError
from app.features.spec import Categorical, FeatureSpec, MultiCategorical, Numeric, Time

SPECS = sorted(
    path
    for path in (Path(__file__).parents[3] / "model/specs").glob("*.toml")
    if not path.name.endswith(".train.toml")
)
HEAD = 'label = "click"\n'
USER = '[[fields]]\nname = "user"\nkind = "categorical"\nside = "context"\n'
ITEM = '[[fields]]\nname = "item"\nkind = "categorical"\nside = "candidate"\n'


def price(lines: str) -> str:
    """A spec whose third field is the number ``price``."""
    field = '[[fields]]\nname = "price"\nkind = "numeric"\nside = "candidate"\n'
    return HEAD + USER + ITEM + field + lines


def moment(lines: str) -> str:
    """A spec whose third field is the time ``when``."""
    field = '[[fields]]\nname = "when"\nkind = "time"\nside = "context"\n'
    return HEAD + USER + ITEM + field + lines


def test_fields_become_their_kind_with_defaults() -> None:
    """Each ``kind`` gives its own type, and absent keys the documented defaults."""
    text = (
        HEAD + USER + ITEM
        + '[[fields]]\nname = "tags"\nkind = "multi_categorical"\nside = "candidate"\n'
        + '[[fields]]\nname = "price"\nkind = "numeric"\nside = "candidate"\n'
        + '[[fields]]\nname = "when"\nkind = "time"\nside = "context"\nparts = ["hour", "day"]\n'
    )  # fmt: skip
    spec = FeatureSpec.parse(text)
    assert spec.fields == (
        Categorical(name="user", side="context", dtype="string", min_count=2),
        Categorical(name="item", side="candidate"),
        MultiCategorical(name="tags", side="candidate", separator="|", max_values=16),
        Numeric(name="price", side="candidate", encoding="quantile", buckets=64),
        Time(name="when", side="context", parts=("hour", "day"), timezone="UTC"),
    )
    assert [field.name for field in spec.side("context")] == ["user", "when"]
    assert spec.fields[-1].slot_names == ("when.hour", "when.day")


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_shipped_specs_load(path: Path) -> None:
    """Every spec that ships has fields on both sides and breaks no rule."""
    spec = FeatureSpec.load(path)
    assert list(spec.side("context"))
    assert list(spec.side("candidate"))


def test_five_specs_ship() -> None:
    """Criteo, Avazu, MovieLens-100k without and with histories, and Frappe are there."""
    names = {"criteo", "avazu", "movielens-100k", "movielens-100k-histories", "frappe"}
    assert {path.stem for path in SPECS} == names


def test_absent_file_is_named(tmp_path: Path) -> None:
    """The message of an unreadable spec has its path."""
    with pytest.raises(SpecError, match=r"nowhere\.toml"):
        FeatureSpec.load(tmp_path / "nowhere.toml")


def test_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    """A spec in another encoding is a spec error."""
    (tmp_path / "latin.toml").write_bytes(b'label = "\xe9"\n')
    with pytest.raises(SpecError, match=r"latin\.toml"):
        FeatureSpec.load(tmp_path / "latin.toml")


def crossed(lines: str) -> str:
    """A spec of four fields with one cross."""
    tags = '[[fields]]\nname = "tags"\nkind = "multi_categorical"\nside = "context"\n'
    return moment('parts = ["hour"]\n') + tags + "[[crosses]]\n" + lines


def test_crosses_name_two_fields() -> None:
    """A cross has two fields, of either side, lists and parts of times included."""
    spec = FeatureSpec.parse(
        crossed('fields = ["user", "item"]\n[[crosses]]\nfields = ["tags", "when.hour"]\n')
    )
    assert [cross.name for cross in spec.crosses] == ["user x item", "tags x when.hour"]
    assert [cross.min_count for cross in spec.crosses] == [2, 2]
    assert FeatureSpec.parse(HEAD + USER + ITEM).crosses == ()


BROKEN = {
    "not TOML": ("label = ", "not TOML"),
    "no label": (USER + ITEM, "`label`"),
    "no fields": (HEAD, "`fields`"),
    "empty fields": (HEAD + "fields = []\n", "spec: `fields` is empty; each side needs one"),
    "fields is no list": (HEAD + "fields = 3\n", "fields"),
    "empty label": ('label = ""\n' + USER + ITEM, "label"),
    "unknown top key": ('labl = "x"\n' + HEAD + USER + ITEM, "'labl'; did you mean 'label'"),
    "unknown field key": (price("bucket = 8\n"), "field 'price'.*'bucket'; .*'buckets'"),
    "key of another kind": (price('dtype = "integer"\n'), "field 'price'.*'dtype'; fields of kind"),
    "null values that are no list": (
        'null_values = "NA"\n' + HEAD + USER + ITEM, "`null_values` must be a list",
    ),
    "null values that are no text": (
        HEAD + USER + "null_values = [-1]\n" + ITEM, "'user': `null_values` must be a list, each",
    ),
    "unknown dtype": (HEAD + USER + 'dtype = "bool"\n' + ITEM, "'user': `dtype`.*mean 'boolean'"),
    "unknown kind": (HEAD + USER.replace("categorical", "category") + ITEM, "field 'user'"),
    "unknown side": (HEAD + USER + ITEM.replace("candidate", "item"), "field 'item'.*side"),
    "no side": (HEAD + USER + ITEM.replace('side = "candidate"\n', ""), "'item'.*`side` is"),
    "empty name": (HEAD + USER.replace("user", "") + ITEM, "name"),
    "wrong type": (HEAD + USER + "min_count = true\n" + ITEM, "field 'user'.*min_count"),
    "min_count too small": (HEAD + USER + "min_count = 0\n" + ITEM, "field 'user'.*min_count"),
    "duplicate field": (HEAD + USER + ITEM + USER, "'user'.* given more than once"),
    "label as a field": ('label = "item"\n' + USER + ITEM, "label 'item'"),
    "no candidate field": (HEAD + USER, "side = 'candidate'"),
    "no context field": (HEAD + ITEM, "side = 'context'"),
    "column absent": ('columns = ["click", "user"]\n' + HEAD + USER + ITEM, "'item'.*`columns`"),
    "label column absent": ('columns = ["user", "item"]\n' + HEAD + USER + ITEM, "'click'"),
    "timestamp column absent": (
        'timestamp = "at"\ncolumns = ["click", "user", "item"]\n' + HEAD + USER + ITEM, "'at'",
    ),
    "delimiter with a quote": ("delimiter = ';\"'\n" + HEAD + USER + ITEM, "delimiter"),
    "edges without the encoding": (price("edges = [1.0]\n"), "'price'.*`edges`"),
    "encoding without edges": (price('encoding = "edges"\n'), "'price'.*`edges`"),
    "edges fall": (price('encoding = "edges"\nedges = [1, 3, 2]\n'), "'price'.*3.0 .*before 2.0"),
    "edges repeat": (price('encoding = "edges"\nedges = [1, 1]\n'), "'price'.*increase"),
    "edge is nan": (price('encoding = "edges"\nedges = [nan]\n'), "'price'.*finite"),
    "edge is infinite": (price('encoding = "edges"\nedges = [1, inf]\n'), "'price'.*finite"),
    "unknown encoding": (price('encoding = "magic"\n'), "'price'.*encoding"),
    "one bucket": (price("buckets = 1\n"), "'price'.*buckets"),
    "no parts": (moment("parts = []\n"), "'when'.*parts"),
    "unknown part": (moment('parts = ["minute"]\n'), "'when'.*parts"),
    "part twice": (moment('parts = ["hour", "hour"]\n'), "'when'.*twice"),
    "unknown timezone": (moment('parts = ["hour"]\ntimezone = "Mars/Base"\n'), "'when'.*Mars/Base"),
    "empty timezone": (moment('parts = ["hour"]\ntimezone = ""\n'), "'when'.*timezone"),
    "format without a year": (moment('parts = ["hour"]\nformat = "%H"\n'), "'when'.*`format`"),
    "format that is none": (moment('parts = ["hour"]\nformat = "%!"\n'), "'when'.*`format`"),
    "format with the name of a zone": (
        moment('parts = ["hour"]\nformat = "%Y-%m-%d %H %Z"\n'), "'when': `format`.*`%Z`.*`%z`",
    ),
    "timestamp's format with the name of a zone": (
        'timestamp = "at"\ntimestamp_format = "%Y-%m-%d %Z"\n' + HEAD + USER + ITEM,
        "`timestamp_format`.*`%Z`.*`%z`",
    ),
    "name with NUL": (HEAD + USER.replace("user", "\\u0000line") + ITEM, "NUL"),
    "label with NUL": ('label = "\\u0000"\n' + USER + ITEM, "NUL"),
    "timestamp with NUL": ('timestamp = "\\u0000moment"\n' + HEAD + USER + ITEM, "NUL"),
    "cross without fields": (crossed("min_count = 3\n"), "cross 1: `fields` is missing"),
    "cross of one field": (crossed('fields = ["user"]\n'), "cross 'user'"),
    "cross of three": (
        crossed('fields = ["user", "item", "tags"]\n'), "cross 'user x item x tags'",
    ),
    "cross of an unknown field": (
        crossed('fields = ["user", "itme"]\n'), "cross 'user x itme'.*'itme'.*mean 'item'",
    ),
    "dynamic context": (
        HEAD + USER + "dynamic = true\n" + ITEM, "field 'user'.*`dynamic` is for.*candidate",
    ),
    "dynamic and required": (
        HEAD + USER + ITEM + "dynamic = true\nrequired = true\n",
        "field 'item'.*`dynamic` excludes `required`",
    ),
    "cross of a whole time": (
        crossed('fields = ["user", "when"]\n'), "cross 'user x when'.*its parts: 'when.hour'",
    ),
    "cross with itself": (crossed('fields = ["user", "user"]\n'), "cross 'user x user'.*itself"),
    "cross twice": (
        crossed('fields = ["user", "item"]\n[[crosses]]\nfields = ["item", "user"]\n'),
        "cross 'item x user'.*more than once",
    ),
    "cross of a scaled field": (
        price('encoding = "scaled"\n') + '[[crosses]]\nfields = ["user", "price"]\n',
        "cross 'user x price'.*'price' is scaled",
    ),
    "unknown key of a cross": (
        crossed('fields = ["user", "item"]\nmincount = 3\n'),
        "'user x item'.*'mincount'; did you mean 'min_count'",
    ),
    "cross with min_count zero": (
        crossed('fields = ["user", "item"]\nmin_count = 0\n'), "cross 'user x item'.*min_count",
    ),
    "cross of two long lists": (
        crossed('fields = ["tags", "words"]\n[[fields]]\nname = "words"\nside = "candidate"\n'
                'kind = "multi_categorical"\nmax_values = 17\n'),
        "cross 'tags x words'.*272 pairs.*max_values",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_error_names_the_field_and_the_key(text: str, message: str) -> None:
    """A broken rule is a SpecError that says where it is."""
    with pytest.raises(SpecError, match=message):
        FeatureSpec.parse(text)


@pytest.mark.parametrize("text", ["%d/%b/%Y:%H:%M:%S %z", "%Y-%m-%d%%Z", "%Y%m%d"])
def test_formats_that_can_be_read_back(text: str) -> None:
    """A format with an offset, or with a percent sign before a Z, is one like any other."""
    spec = FeatureSpec.parse(moment(f'parts = ["hour"]\nformat = "{text}"\n'))
    assert isinstance(spec.fields[2], Time)
    assert spec.fields[2].format == text


def test_list_limits() -> None:
    """A list keeps between 1 and 256 values, and its separator is not empty."""
    tags = '[[fields]]\nname = "tags"\nkind = "multi_categorical"\nside = "context"\n'
    for line in ("max_values = 0", "max_values = 257", 'separator = ""'):
        with pytest.raises(SpecError, match=f"field 'tags'.*{line.split()[0]}"):
            FeatureSpec.parse(HEAD + USER + ITEM + tags + line)


def errors(text: str) -> list[str]:
    """The lines of the message about a spec, without its first."""
    with pytest.raises(SpecError) as caught:
        FeatureSpec.parse(text, "clicks.toml")
    first, *lines = str(caught.value).splitlines()
    assert first == f"clicks.toml: {len(lines)} errors"
    return lines


def test_all_errors_are_told_at_once() -> None:
    """Errors of keys, kinds, values, names, columns and crosses come in one message, each once;
    what depends on a wrong field is not judged.
    """
    text = (
        'labl = "click"\ncolumns = ["user", "itm", "price"]\ndelimiter = ";\\""\n'
        + USER.replace("context", "user") + 'min_count = 0\n'
        + ITEM.replace('"categorical"', '"categoric"')
        + ITEM.replace("item", "itm") + ITEM.replace("item", "itm")
        + '[[fields]]\nname = "price"\nkind = "numeric"\nside = "candidate"\n'
        + 'encoding = "bucket"\nbuckets = 1\nedges = [2, 1]\ntimestamp = "time"\n'
        + '[[fields]]\nname = "when"\nkind = "time"\nside = "context"\n'
        + 'parts = ["hours"]\ntimezone = "Europe/Berln"\nformat = "%H"\n'
        + '[[crosses]]\nfields = ["user", "when.hour"]\n'
        + '[[crosses]]\nfields = ["itm", "color"]\nmin_count = "2"\n'
        + "[negatives]\nkept = 2\n"
    )  # fmt: skip
    assert errors(text) == [
        "  unknown key 'labl'; did you mean 'label'?",
        "  `delimiter` must not have a quote or a line end",
        "  field 'user': `side` must be one of 'candidate', 'context', got \"user\"",
        "  field 'user': `min_count` must be an integer of at least 1, got 0",
        "  field 'item': `kind` must be one of 'categorical', 'multi_categorical', 'numeric',"
        " 'time', got \"categoric\"; did you mean 'categorical'?",
        "  field 'price': `encoding` must be one of 'edges', 'log_squared', 'quantile', 'scaled',"
        ' got "bucket"',
        "  field 'price': `buckets` must be an integer from 2 to 65,536, got 1",
        "  field 'price': `edges` must increase, but 2.0 is before 1.0",
        "  field 'price': unknown key 'timestamp'; it belongs above the first [[fields]]",
        "  field 'when': `parts` must be a list that is not empty, each item one of 'day', 'hour',"
        " 'month', 'weekday', 'year', got [\"hours\"]; did you mean 'hour'?",
        "  field 'when': `timezone` is unknown: 'Europe/Berln'; did you mean 'Europe/Berlin'?",
        "  field 'when': `format` cannot be read back: it has no year",
        "  cross 'itm x color': `min_count` must be an integer of at least 1, got \"2\"",
        "  [negatives]: `kept` must be a number above 0 and at most 1, got 2",
        "  `label` is missing; it is text that is not empty",
        "  field 'itm': it is given more than once",
        "  cross 'itm x color': there is no field 'color'",
    ]


def test_a_cross_and_columns_are_judged_beside_other_errors() -> None:
    """A wrong field hides no mistake of a table that does not name it."""
    text = (
        'columns = ["click", "usr", "item", "price", "tags", "when"]\nlabl = 1\n'
        + crossed('fields = ["user", "itme"]\n')
    )  # fmt: skip
    assert errors(text) == [
        "  unknown key 'labl'; did you mean 'label'?",
        "  'user' is not among `columns`; did you mean 'usr'?",
        "  cross 'user x itme': there is no field 'itme'; did you mean 'item'?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (price("class_weight = 2\n"), "unknown key 'class_weight'; allowed: kind, name, side"),
        ("epoch = 3\n" + HEAD + USER + ITEM, "unknown key 'epoch'; allowed: label, fields, "),
        ("min_count = 3\n" + HEAD + USER + ITEM, "'min_count'; it belongs into a .* table"),
        (HEAD + USER + ITEM + 'timestamp = "at"\n', "'timestamp'; it belongs above the first"),
        (price('separator = ","\n'), "fields of kind 'multi_categorical' have it, not 'numeric'"),
        (crossed('fields = ["user", "item"]\nname = "x"\n'), "'name'; allowed: fields, min_count$"),
        (HEAD + USER + ITEM.replace('kind = "categorical"\n', ""), "`kind` is missing; it is one"),
        (HEAD + USER.replace("[[fields]]", "[fields]"), r"write \[\[fields\]\], not \[fields\]"),
        (HEAD + "[[field]]\nname = 'user'\n", "`fields` is missing; it is a list of tables"),
        (HEAD + USER + "null_values = [1]\n" + ITEM, "must be a list, each item text, got "),
        (HEAD + USER + ITEM + "[crosses]\n", r"write \[\[crosses\]\]"),
        ("negatives = 0.5\n" + HEAD + USER + ITEM, r"`negatives` must be a table, \[negatives\]"),
        (HEAD + USER + ITEM.replace('"candidate"', '"candidates"'), "did you mean 'candidate'"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_told_where_it_belongs(text: str, message: str) -> None:
    """A suggestion comes from the names of that place, and only where one is near; otherwise the
    allowed ones are listed.
    """
    with pytest.raises(SpecError, match=message):
        FeatureSpec.parse(text)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "epochs = 3\n[fm]\nepochs = 1\n"])
def test_a_file_of_another_purpose_is_told(text: str) -> None:
    """Training settings in the place of the spec are told once, not key by key."""
    with pytest.raises(SpecError, match=r"this is no feature spec; a file of training settings"):
        FeatureSpec.parse(text, "clicks.train.toml")


def test_a_field_without_a_name_may_be_the_one_that_a_cross_names() -> None:
    """The cross is judged once the field has its name."""
    text = crossed('fields = ["user", "item"]\n').replace('name = "user"\n', "")
    with pytest.raises(SpecError, match=r"spec: field 1: `name` is missing; .* not empty$"):
        FeatureSpec.parse(text)


def test_no_crosses_are_none() -> None:
    """An empty list of crosses is allowed."""
    assert FeatureSpec.parse("crosses = []\n" + HEAD + USER + ITEM).crosses == ()


WHOLE = """\
label = "click"
timestamp = "at"
timestamp_format = "%Y-%m-%d"
columns = ["click", "at", "user", "tags", "price", "when"]
delimiter = ","
null_values = ["NA"]
[[fields]]
name = "user"
kind = "categorical"
side = "context"
dtype = "integer"
min_count = 2
required = true
empty_is_missing = true
[[fields]]
name = "tags"
kind = "multi_categorical"
side = "candidate"
separator = "|"
max_values = 3
dynamic = true
[[fields]]
name = "price"
kind = "numeric"
side = "candidate"
encoding = "edges"
edges = [1, 2.5]
buckets = 5
[[fields]]
name = "when"
kind = "time"
side = "context"
parts = ["hour"]
timezone = "UTC"
format = "%Y"
[[crosses]]
fields = ["user", "tags"]
min_count = 2
[negatives]
kept = 0.5
parts = ["train"]
"""
ODD = [
    "true", "-1", "1180591620717411303424", "nan", '""', '"x"', '"\\u0000"', "[]", "[1]", "[[]]",
    '["a", "a"]', "[{}]", "{a = 1}", "2014-10-21", "07:32:00",
]  # fmt: skip


def test_any_value_of_any_key_is_taken_or_told() -> None:
    """A key of any other value, twice under another name, or absent: a spec or its errors, each in
    a line that is not endless.
    """
    FeatureSpec.parse(WHOLE)
    lines = WHOLE.splitlines()
    told = []
    for number, line in enumerate(lines):
        key = line.split(" = ")[0]
        others = [f"{key} = {value}" for value in ODD] if " = " in line else ["[odd]", "[[odd]]"]
        for other in ["", f"{key}y = 1", f"{line}\nodd = 1", *others]:
            text = "\n".join([*lines[:number], other, *lines[number + 1 :]])
            try:
                FeatureSpec.parse(text, "clicks.toml")
            except SpecError as error:
                told.append(str(error))
    assert len(told) > 500
    assert all(message.startswith("clicks.toml:") for message in told)
    assert max(len(line) for message in told for line in message.splitlines()) < 300
