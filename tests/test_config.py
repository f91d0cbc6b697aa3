"""The configuration: overlays, errors that help, fingerprints."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fparec_pipeline
from fparec_pipeline.config import (
    FILES,
    REFERENCES,
    ConfigError,
    Hyperparameters,
    Trial,
    known,
    load_config,
    reference_fingerprint,
)
from fparec_pipeline.paths import DataRoot

PACKAGE = Path(fparec_pipeline.__file__).parent
SOURCE = '[mine.sources.file]\nreader = "csv"\naddress = "mine.csv"\n'
COLUMNS = 'user = "u"\nitem = "i"\ntime = "t"\n'


@pytest.fixture
def load(tmp_path):
    """Loads the configuration with the given text as the data root's file of that name."""

    def load_overlaid(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
        return load_config(DataRoot(tmp_path))

    return load_overlaid


# What the packaged files say


def test_hyperparameters_are_defaults_then_the_datasets_then_the_arms(load):
    models = tomllib.loads((FILES / "models.toml").read_text(encoding="utf-8"))
    datasets = tomllib.loads((FILES / "datasets.toml").read_text(encoding="utf-8"))
    config = load()
    switches = {
        "mixer": None,  # of other networks
        "network": "mixer_blocks",
        "loss": "cross_entropy",
        "negatives": 1,
        "attention_learning_rate": None,
        "code": None,
    }
    for dataset in datasets:
        for model in set(models) - {"defaults"}:
            expected = switches | models["defaults"]
            base = datasets[datasets[dataset].get("like", dataset)]
            expected.update(base.get("hyperparameters", {}))
            expected.update(models[model])
            for words in ("title", "description"):
                expected.pop(words, None)
            assert config.trial(dataset, model, 7).hyperparameters.model_dump() == expected


def test_an_arm_has_the_last_word(load):
    config = load(
        datasets=f"{SOURCE}{COLUMNS}[mine.hyperparameters]\nd = 20\nn = 30\n",
        models="[fparec]\nd = 10\n",
    )
    hyperparameters = config.trial("mine", "fparec", 0).hyperparameters
    assert (hyperparameters.d, hyperparameters.n) == (10, 30)
    assert hyperparameters.k == load().defaults["k"]


def test_trials_are_the_product(load):
    trials = load().trials(["beauty", "toys"], ["parec", "fparec"], [0, 1])
    names = [(trial.dataset, trial.arm, trial.seed) for trial in trials]
    assert sorted(names) == [
        (d, m, s) for d in ("beauty", "toys") for m in ("fparec", "parec") for s in (0, 1)
    ]


def test_every_arm_and_reference_has_a_title(load):
    config = load(models='[own]\nmixer = "average"\n')
    assert set(config.titles) == set(config.arms) | set(REFERENCES)
    assert config.titles["fparec"] == "FPARec"
    assert config.titles["own"] == "own"


def test_among_a_datasets_models_another_window_stands_in_the_name(load):
    config = load()
    names = config.titles_on("ml-1m")  # n = 200; Table 5 is of n = 500
    assert names["fparec_k40"] == "FPARec, k = 40 (n = 500)"
    assert names["fparec_short"] == "FPARec, short window (n = 50)"
    assert (names["fparec"], names["popularity"]) == ("FPARec", "Popularity")
    assert config.titles_on("beauty")["fparec_long"] == "FPARec, long window (n = 200)"
    with pytest.raises(ConfigError, match="no_such"):
        config.titles_on("no_such")


def test_models_of_one_title_have_their_own_names_beside_it(load):
    same = '[{}]\nmixer = "factorized_positional"\nk = {}\ntitle = "FPARec"\n'
    config = load(models=same.format("mine", 7) + same.format("broad", 9) + "n = 70\n")
    names = config.titles_on("beauty")
    assert (names["fparec"], names["mine"]) == ("FPARec (fparec)", "FPARec (mine)")
    assert (names["broad"], names["sasrec"]) == ("FPARec (n = 70)", "SASRec")


# Overlays


def test_an_own_dataset_stands_beside_the_packaged_ones(load):
    packaged = set(load().datasets)
    config = load(datasets=SOURCE + COLUMNS)
    assert set(config.datasets) == packaged | {"mine"}
    assert config.datasets["mine"].active_source.reader == "csv"
    assert config.datasets["mine"].core == 5


def test_another_source_is_chosen_and_all_else_stays(load):
    before = load().datasets["beauty"]
    after = load(datasets='[beauty]\nsource = "raw"\n').datasets["beauty"]
    assert (before.source_name, after.source_name) == ("published", "raw")
    assert after.active_source.reader == "amazon"
    assert after.model_copy(update={"source": None}) == before


def test_an_overlay_changes_one_key_of_one_arm(load):
    before, after = load(), load(models="[parec]\nlearning_rate = 0.01\n")
    assert after.trial("beauty", "parec", 0).hyperparameters.learning_rate == 0.01
    assert after.trial("beauty", "parec", 0).hyperparameters.mixer == "positional"
    assert after.trial("beauty", "fparec", 0) == before.trial("beauty", "fparec", 0)


def test_an_own_study_adds_its_seeds(load):
    text = '[mine]\ntitle = "x"\nmodels = ["parec"]\ndatasets = ["beauty"]\nseeds = [41, 40]\n'
    before, after = load().seeds, load(studies=text)
    assert after.studies["mine"].arms == ("parec",)
    assert after.seeds == (*before, 40, 41)


# Whom a study tests the others against


@pytest.mark.parametrize(
    ("name", "dataset", "hero"),
    [
        ("table_3", "beauty", "fparec"),
        ("position_embedding", "beauty", "fparec_without_position"),
        ("sequence_length", "beauty", "fparec_short"),  # n = 50
        ("sequence_length", "ml-1m", "fparec_middle"),  # n = 200
        ("table_5", "ml-1m", "fparec_k40"),
        ("table_6", "ml-latest-small", "fparec_blocks2"),
        ("mine", "beauty", None),
    ],
)
def test_the_hero_is_the_one_named_or_plain_fparec_by_whatever_name(name, dataset, hero, load):
    config = load(studies=study(models='["parec"]'))
    assert config.hero_of(config.studies[name], dataset) == hero


def test_every_packaged_study_with_fparec_has_a_hero_on_each_of_its_datasets(load):
    config = load()
    for entry in config.studies.values():
        for dataset in entry.datasets:
            assert config.hero_of(entry, dataset) in entry.arms


# Studies with variants


def study(**changes):
    entry = {"title": '"x"', "models": '["parec", "fparec"]', "datasets": '["beauty"]'}
    entry |= {"seeds": "[0]"} | changes
    return "[mine]\n" + "".join(f"{key} = {value}\n" for key, value in entry.items())


def values(config, dataset, arm, *names):
    hyperparameters = config.trial(dataset, arm, 0).hyperparameters
    return tuple(getattr(hyperparameters, name) for name in names)


def test_the_arms_of_a_study_are_models_times_variants(load):
    variants = "{ tall = { d = 64 }, low = { title = 'flat', d = 4 } }"
    config = load(studies=study(variants=variants))
    arms = ("parec_tall", "fparec_tall", "parec_low", "fparec_low")
    assert config.studies["mine"].arms == arms
    assert [config.titles[arm] for arm in arms[::3]] == ["PARec, d = 64", "FPARec, flat"]
    assert {config.variants[arm] for arm in arms} == {"mine"}
    assert values(config, "beauty", "fparec_low", "mixer", "d") == ("factorized_positional", 4)


@pytest.mark.parametrize("changes", [{"hyperparameters": "{ d = 4 }"}, {"on.beauty": "{ d = 4 }"}])
def test_changes_that_a_study_without_variants_would_ignore_are_refused(load, changes):
    with pytest.raises(ConfigError, match=r"\[mine\].*variants, and it has none"):
        load(studies=study(**changes))


def test_a_variants_changes_go_over_the_studys_and_the_dataset_over_both(load):
    config = load(
        studies=study(
            models='["fparec"]',
            hyperparameters="{ n = 90, dropout = 0.4 }",
            on="{ toys = { n = 80, dropout = 0.3 } }",
            variants="{ a = { k = 7, on.toys = { n = 70 } }, b = { n = 60 } }",
        )
    )
    assert values(config, "beauty", "fparec_a", "k", "n", "dropout") == (7, 90, 0.4)
    assert values(config, "toys", "fparec_a", "k", "n", "dropout") == (7, 70, 0.3)
    assert values(config, "beauty", "fparec_b", "n") == (60,)
    assert values(config, "toys", "fparec_b", "n") == (80,)


def test_an_arm_has_changes_of_its_own_on_a_dataset(load):
    config = load(models="[fparec.on.toys]\nn = 33\n")
    assert values(config, "toys", "fparec", "n") == (33,)
    assert values(config, "beauty", "fparec", "n") == (50,)


def test_equal_hyperparameters_are_one_trial_under_the_first_arms_name(load):
    config = load(studies=study(variants="{ wide = { n = 50 }, wider = { n = 60 } }"))
    assert config.trial("beauty", "fparec_wide", 0) == config.trial("beauty", "fparec", 0)
    assert config.trial("beauty", "fparec_wider", 0).arm == "fparec_wider"
    assert config.trial("ml-1m", "fparec_wide", 0).arm == "fparec_short"  # n is 200 there
    assert len(config.trials(["beauty"], ["fparec", "fparec_wide", "parec"], [0, 1])) == 4


def test_a_study_cannot_have_the_name_of_an_arm(load):
    text = study(variants="{ a = { n = 60 } }").replace("[mine]", "[fparec]")
    with pytest.raises(ConfigError, match=r"\[fparec\]: an arm has that name already"):
        load(studies=text)


def test_a_variant_has_to_fit_on_its_studys_datasets_only(load):
    text = study(models='["fparec"]', datasets='["{}"]', variants="{{ narrow = {{ n = 30 }} }}")
    config = load(studies=text.format("beauty"))  # where k is 20
    assert "fparec_narrow" in config.arms_on("beauty")
    assert "fparec_narrow" not in config.arms_on("ml-1m")  # where it is 40
    assert set(config.arms) - set(config.arms_on("ml-1m")) == {"fparec_narrow"}
    with pytest.raises(ConfigError, match="k = 40 is larger than n = 30"):
        load(studies=text.format("ml-1m"))


def test_an_arm_is_found_by_what_it_changes(load):
    config = load()
    assert config.arm_with("ml-1m", "sasrec", n=50) == "sasrec_short"
    assert config.arm_with("ml-1m", "sasrec", n=200) == "sasrec"
    with pytest.raises(ConfigError, match=r"No arm is sasrec with n = 51 on ml-1m; add one"):
        config.arm_with("ml-1m", "sasrec", n=51)


PAPERS_STUDIES = {  # study -> what varies, on ml-1m and on another dataset (Section 4)
    "table_5": ("k", [(k, 500) for k in range(10, 70, 10)], [(k, 100) for k in range(10, 70, 10)]),
    "table_6": ("blocks", [(b, 500) for b in (1, 2, 3)], [(b, 50) for b in (1, 2, 3)]),
    "sequence_length": ("n", [(n, n) for n in (50, 200, 500)], [(n, n) for n in (50, 100, 200)]),
}


@pytest.mark.parametrize("name", PAPERS_STUDIES)
def test_the_papers_studies_vary_what_the_paper_varies(name, load):
    config, (key, on_ml_1m, elsewhere) = load(), PAPERS_STUDIES[name]
    for dataset, expected in (("ml-1m", on_ml_1m), ("ml-latest-small", elsewhere)):
        arms = [arm for arm in config.studies[name].arms if arm.startswith("fparec_")]
        assert [values(config, dataset, arm, key, "n") for arm in arms] == expected
        if dataset == "ml-1m" and name != "sequence_length":
            ks = {values(config, dataset, arm, "k") for arm in config.studies["table_6"].arms}
            assert ks == {(40,)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": '["fparecc"]', "variants": "{ a = { n = 60 } }"}, ["[mine]", "fparecc"]),
        ({"variants": "{ a = { dd = 4 } }"}, ["studies.toml [mine.variants]", "'dd'", "'d'"]),
        ({"variants": "{ short = { d = 4 } }"}, ["[mine]", "another arm 'parec_short'"]),
        ({"on": "{ tois = { d = 4 } }", "variants": "{ a = { n = 60 } }"}, ["tois", "toys"]),
        ({"variant": "{ a = { n = 60 } }"}, ["'variant'", "did you mean 'variants'"]),
    ],
)
def test_a_variants_error_names_study_and_the_nearest_match(changes, words, load):
    with pytest.raises(ConfigError) as caught:
        load(studies=study(**changes))
    for word in words:
        assert word in str(caught.value)


# What the paper printed


def test_every_number_of_the_paper_is_of_an_arm_of_its_study(load):
    config = load()
    for study_name, datasets in config.paper.items():
        for dataset, arms in datasets.items():
            assert dataset in config.studies[study_name].datasets
            assert set(arms) == set(config.studies[study_name].arms)


# Errors

DATASET_ERRORS = {
    "unknown key": (
        f'[mine]\ntitel = "x"\n{SOURCE}{COLUMNS}',
        ["'titel'", "did you mean 'title'", "licence"],
    ),
    "unknown key, nested": (
        f'{SOURCE}{COLUMNS}adress = "x"\n',
        ["'sources.file.adress'", "did you mean 'address'", "separator"],
    ),
    "unknown reader": (
        '[mine.sources.file]\nreader = "tsv"\n',
        ["sources.file.reader", "'pairs'", "given: 'tsv'"],
    ),
    "a number that is none": (
        f'[mine]\ncore = "five"\n{SOURCE}{COLUMNS}',
        ["core", "integer", "given: 'five'"],
    ),
    "a core of nothing": (
        f"[mine]\ncore = 0\n{SOURCE}{COLUMNS}",
        ["core", "greater than or equal to 1", "given: 0"],
    ),
    "a date that is none": (
        f'{SOURCE}{COLUMNS}from_date = "May"\n',
        ["sources.file.from_date", "date", "'May'"],
    ),
    "no known hash": (
        f'{SOURCE}{COLUMNS}hash = "sha1:00"\n',
        ["sources.file.hash", "sha256", "given: 'sha1:00'"],
    ),
    "no such source": (f'[mine]\nsource = "raw"\n{SOURCE}{COLUMNS}', ["'raw'", "file"]),
    "missing columns": (SOURCE, ["sources.file", "'csv'", "user, item, time"]),
}


@pytest.mark.parametrize("case", DATASET_ERRORS)
@pytest.mark.fault("configuration")
def test_a_dataset_error_names_file_dataset_key_and_what_is_allowed(case, load, tmp_path):
    text, words = DATASET_ERRORS[case]
    with pytest.raises(ConfigError) as caught:
        load(datasets=text)
    for word in [str(tmp_path / "datasets.toml"), "[mine]", *words]:
        assert word in str(caught.value)


def test_an_error_in_a_datasets_hyperparameters_names_their_table(load):
    text = f"{SOURCE}{COLUMNS}[mine.hyperparameters]\ndropuot = 0.1\n"
    with pytest.raises(ConfigError) as caught:
        load(datasets=text)
    for word in ["datasets.toml [mine.hyperparameters]", "'dropuot'", "'dropout'", "batch_size"]:
        assert word in str(caught.value)


MODEL_ERRORS = {
    "unknown key": ("[fparec]\nlearning_rte = 1\n", ["'learning_rte'", "'learning_rate'", "beta2"]),
    "wrong type": ('[fparec]\nd = "wide"\n', ["d:", "integer", "'wide'"]),
    "n = 0": ("[fparec]\nn = 0\n", ["n:", "greater than or equal to 1", "given: 0"]),
    "k > n": ("[fparec]\nk = 60\nn = 50\n", ["k = 60 is larger than n = 50"]),
    "dropout of all": ("[fparec]\ndropout = 1.0\n", ["dropout:", "less than 1", "given: 1.0"]),
    "unknown mixer": (
        '[fparec]\nmixer = "mamba"\n',
        ["mixer:", "positional,", "'mamba'", "module:Class"],
    ),
    "no table": ("fparec = 3\n", ["dictionary", "given: 3"]),
    "no title": ("[fparec]\ntitle = 3\n", ["titles.fparec", "string", "given: 3"]),
}


@pytest.mark.parametrize("case", MODEL_ERRORS)
@pytest.mark.fault("configuration")
def test_an_arms_error_names_file_arm_key_and_what_is_allowed(case, load):
    text, words = MODEL_ERRORS[case]
    with pytest.raises(ConfigError) as caught:
        load(models=text)
    for word in ["models.toml", "fparec", *words]:
        assert word in str(caught.value)


def test_only_what_has_learned_logits_has_a_learning_rate_for_them(load):
    with pytest.raises(ConfigError, match="'self_attention' has no attention_learning_rate"):
        load(models="[sasrec]\nattention_learning_rate = 0.1\n")


@pytest.mark.fault("configuration")
def test_only_fparec_has_a_rank_that_must_fit_its_window(load):
    assert load(models="[parec]\nn = 5\n").trial("beauty", "parec", 0).hyperparameters.n == 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('models = ["fparecc"]', ["model 'fparecc'", "Did you mean fparec", "sasrec"]),
        ('datasets = ["beuty"]', ["dataset 'beuty'", "Did you mean beauty", "yelp"]),
        ('seeds = ["one"]', ["seeds.0", "integer", "'one'"]),
        ('model = ["fparec"]', ["'model'", "did you mean 'models'"]),
        ('hero = "fparek"', ["model of the study 'fparek'", "Did you mean fparec"]),
        ('pairs = [["fparec", "parek"]]', ["model of the study 'parek'", "Did you mean parec"]),
    ],
)
@pytest.mark.fault("configuration")
def test_a_studys_error_names_file_study_and_the_nearest_match(line, words, load, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(studies=f"[table_3]\n{line}\n")
    for word in [str(tmp_path / "studies.toml"), "[table_3]", *words]:
        assert word in str(caught.value)


@pytest.mark.fault("configuration")
def test_a_file_that_is_no_toml_is_named(load, tmp_path):
    with pytest.raises(ConfigError, match=r"datasets\.toml is not valid TOML: .*line 1"):
        load(datasets="[mine\n")
    (tmp_path / "datasets.toml").write_bytes(b'title = "\xff"')
    with pytest.raises(ConfigError, match=r"datasets\.toml is not valid TOML"):
        load_config(DataRoot(tmp_path))


@pytest.mark.fault("configuration")
def test_an_unknown_name_is_answered_with_those_there_are(load):
    with pytest.raises(ConfigError, match=r"no dataset 'beautty'. Did you mean beauty\?"):
        load().trial("beautty", "fparec", 0)
    with pytest.raises(ConfigError, match=r"no model 'zzz'\. There are: sasrec"):
        load().trial("beauty", "zzz", 0)
    assert known("a", ["a", "b"], "letter") == "a"


# Fingerprints

FINGERPRINT = "ed842d5e4717a9d1"  # of beauty, fparec, seed 0, training version 2

OTHER_CHOICE = {
    "mixer": "positional",
    "softmax": "all_columns",
    "residual": "input",
    "value_source": "normalized",
    "feed_forward": "last_block",
    "network": "my_module:Mine",
    "loss": "binary_cross_entropy",
    "attention_learning_rate": 0.01,
    "code": "0" * 16,
}


@pytest.fixture
def trial(load):
    return load().trial("beauty", "fparec", 0)


def changed(trial, name):
    """The trial with another value of one hyper-parameter."""
    old = trial.hyperparameters.model_dump()
    value = old[name]
    if isinstance(value, bool):
        other = not value
    else:
        other = OTHER_CHOICE.get(name) or (value + 1 if isinstance(value, int) else value / 2)
    assert other != value
    changes = {"network": "my_module:Mine", "mixer": None} if name == "network" else {name: other}
    return trial.model_copy(update={"hyperparameters": Hyperparameters(**old | changes)})


@pytest.mark.parametrize("name", Hyperparameters.model_fields)
def test_every_hyperparameter_changes_the_fingerprints(name, trial):
    other = changed(trial, name)
    for with_seed in (True, False):
        prints = {t.fingerprint("data", with_seed=with_seed) for t in (trial, other)}
        assert len(prints) == 2


def test_a_switch_at_its_default_has_no_part_in_the_fingerprint(trial):
    """So that what was trained before there was the switch stays what it is."""
    later = {"network", "loss", "negatives", "attention_learning_rate", "code"}
    old = trial.hyperparameters.model_dump(exclude=later)
    assert trial.model_copy(update={"hyperparameters": Hyperparameters(**old)}).fingerprint(
        "data"
    ) == trial.fingerprint("data")
    # As the commit before the switches had it.
    assert trial.fingerprint("data") == FINGERPRINT


def test_data_and_dataset_change_the_fingerprints(trial):
    other = trial.model_copy(update={"dataset": "toys"})
    for with_seed in (True, False):
        prints = [
            trial.fingerprint("data", with_seed=with_seed),
            trial.fingerprint("other data", with_seed=with_seed),
            other.fingerprint("data", with_seed=with_seed),
        ]
        assert len(set(prints)) == 3


def test_the_arms_fingerprint_is_the_same_for_every_seed(trial):
    seeds = [trial.model_copy(update={"seed": seed}) for seed in range(3)]
    assert len({t.fingerprint("data", with_seed=False) for t in seeds}) == 1
    assert len({t.fingerprint("data") for t in seeds}) == 3


def test_the_arms_name_has_no_part_in_its_fingerprint(trial):
    renamed = trial.model_copy(update={"arm": "fparec_of_another_study"})
    assert renamed.fingerprint("data") == trial.fingerprint("data")


def test_the_training_version_changes_every_fingerprint(trial, monkeypatch):
    before = trial.fingerprint("data"), reference_fingerprint("beauty", "popularity", "data")
    monkeypatch.setattr("fparec_pipeline.config.fingerprints.TRAINING_VERSION", -1)
    after = trial.fingerprint("data"), reference_fingerprint("beauty", "popularity", "data")
    assert not set(before) & set(after)


def test_references_have_fingerprints_of_their_own():
    prints = {
        reference_fingerprint(dataset, reference, data_hash)
        for dataset in ("beauty", "toys")
        for reference in REFERENCES
        for data_hash in ("a", "b")
    }
    assert len(prints) == 4 * len(REFERENCES)


def test_a_fingerprint_is_the_same_in_any_process_and_at_any_commit(trial, tmp_path):
    """Neither git nor Python's hash seed, which orders sets, has a part in it."""
    script = (
        "import sys; from fparec_pipeline.config import Trial;"
        "print(Trial.model_validate_json(sys.argv[1]).fingerprint('data'))"
    )
    command = [sys.executable, "-c", script, trial.model_dump_json()]
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PYTHONHASHSEED": "7"}
    answer = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == trial.fingerprint("data")
    assert Trial.model_validate_json(trial.model_dump_json()) == trial


# Protocols, and datasets like others


def test_a_dataset_like_another_reads_the_same_file_in_its_own_way(load):
    config = load(
        datasets='[later]\nlike = "ml-1m"\nprotocol = { name = "temporal", test_quantile = 0.8 }\n'
        'source = "raw"\n',
        models="[fparec.on.ml-1m]\nd = 64\n",
    )
    base, later = config.datasets["ml-1m"], config.datasets["later"]
    assert (later.sources, later.core, later.licence) == (base.sources, base.core, base.licence)
    assert (later.source_name, later.title, later.expected) == ("raw", None, None)
    assert (later.protocol.test_quantile, later.protocol.valid_quantile) == (0.8, 0.8)
    assert base.protocol.name == "leave_one_out"
    pair = [config.trial(dataset, "fparec", 0) for dataset in ("ml-1m", "later")]
    assert pair[0].hyperparameters == pair[1].hyperparameters
    assert pair[1].hyperparameters.d == 64
    assert pair[0].fingerprint("h") != pair[1].fingerprint("h")


def test_a_protocol_with_a_name_takes_nothing_from_the_one_in_its_place(load):
    cut = 'protocol = {name = "temporal", test_from = 2020-01-01}'
    config = load(
        datasets=f"[ml-1m]\n{cut}\n"
        '[half]\nlike = "ml-1m"\nprotocol = {name = "temporal", test_quantile = 0.5}\n'
        '[one]\nlike = "ml-1m"\nprotocol = {name = "leave_one_out"}\n'
        '[all]\nlike = "ml-1m"\nprotocol = {target = "all"}\n'
    )
    half, rest = config.datasets["half"].protocol, config.datasets["all"].protocol
    assert (half.test_from, half.test_quantile) == (None, 0.5)
    assert config.datasets["one"].protocol.name == "leave_one_out"
    assert (str(rest.test_from), rest.target) == ("2020-01-01", "all")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('like = "ml-1n"', r"\[later\].*no dataset 'ml-1n'.*ml-1m"),
        ('like = "ml-latest-small-temporal"', r"itself like 'ml-latest-small'; name that"),
        ('like = "ml-1m"\n[later.sources.x]\nreader = "csv"', "no sources of its own"),
        ('like = "ml-1m"\nprotocol = "random"', r"\[later\].*protocol.*leave_one_out.*temporal"),
        (
            'like = "ml-1m"\nprotocol = {name = "temporal", test_quantil = 0.9}',
            r"unknown key 'protocol\.temporal\.test_quantil', did you mean 'test_quantile'\?",
        ),
        ('like = "ml-1m"\nprotocol = {name = "leave_one_out", target = "all"}', "target"),
        (
            'like = "ml-1m"\n'
            'protocol = {name = "temporal", valid_quantile = 0.8, valid_from = 2020-01-02}',
            "valid_quantile and valid_from are one cut",
        ),
        (
            'like = "ml-1m"\n'
            'protocol = {name = "temporal", valid_from = 2020-01-02, test_from = 2020-01-01}',
            "valid_from 2020-01-02 is not before 2020-01-01",
        ),
    ],
)
def test_a_protocol_that_cannot_be_used_is_named(load, entry, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load(datasets=f"[later]\n{entry}\n")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("models", '[fparec.on.beuty]\nd = 4\n', r"\[fparec\] `on`.*beauty"),
        ("models", '[popularity]\nmixer = "average"\n', "untrained row has that name"),
        ("datasets", 'x = "y"\n[z]\nlike = "x"\n', r"\[z\].*no dataset's table"),
        ("datasets", "[beauty.protocol]\ntest_quantile = 0.8\n", "'leave_one_out', 'temporal'"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_named(load, file, text, words):
    with pytest.raises(ConfigError, match=words):
        load(**{file: text})
