"""Texts from file to ranking: layers in one pass, pairs, words, truncation, the command line."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pictures import shows_data

torch = pytest.importorskip("torch", reason="text encoders need torch")
pytest.importorskip("transformers", reason="text encoders need transformers")

sys.path.insert(0, str(Path(__file__).parent / "encoders"))
import text_checkpoints as tiny  # noqa: E402

import transferscope  # noqa: E402
from transferscope import cli  # noqa: E402
from transferscope.datasets import open_dataset, open_reference  # noqa: E402
from transferscope.encoders import load_encoder  # noqa: E402
from transferscope.errors import DatasetError, InputError  # noqa: E402
from transferscope.extraction import _batches, extract  # noqa: E402
from transferscope.results import Ranking  # noqa: E402
from transferscope.storage.feature_store import FeatureStore  # noqa: E402

ANIMALS = ["fox", "dog", "brown fox", "lazy dog", "quick fox"]
OTHERS = ["bank", "account", "liquor jugs", "five dozen", "my box"]
TEXTS = [f"the {a} and the {b}" for a in ANIMALS for b in ANIMALS] + [
    f"pack {a} or {b} " * (1 + i % 2) for a in OTHERS for i, b in enumerate(OTHERS)
]
LABELS = ["animal"] * 25 + ["other"] * 25
DIGITS = open_dataset("sklearn/digits", per_class=3)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_batches, "SHARD_ROWS", 16)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return tiny.saved(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.saved(tmp_path_factory.mktemp("gpt2"), "gpt2")


def table(path: Path, **columns: Any) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def alone(name: str, samples: Any, layer: str = "pooled") -> np.ndarray:
    """Features of each sample in a batch of its own."""
    encoder: Any = load_encoder(name)
    rows = [
        encoder.embed(encoder.preprocessing.collate([sample]), [layer]).features[layer][0]
        for sample in samples
    ]
    return torch.stack(rows).numpy()  # type: ignore[no-any-return]


def features(data: Any, name: str, store: Any = None, **options: Any) -> Any:
    options = {"device": "cpu", "batch_size": 6, **options}
    (item,) = extract(data, [name], store=store, **options)
    assert item.error is None, item.error
    return item


# --- extraction ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_shards")
def test_sorting_by_length_leaves_the_order_of_the_samples(bert: str, tmp_path: Path) -> None:
    data = open_dataset((TEXTS, LABELS))
    item = features(data, bert, FeatureStore(tmp_path))
    np.testing.assert_allclose(item.embedding().features, alone(bert, TEXTS), atol=1e-5)
    assert item.warnings == ()
    assert item.feature_dim == 32
    assert item.input_size is None


class Counted:
    """An encoder that notes the sizes of its batches; all else is that of the one it wraps."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.calls = encoder, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def to(self, device: str) -> Counted:
        self.encoder.to(device)
        return self

    def embed(self, batch: Any, layers: Any) -> Any:
        self.calls.append(len(batch))
        return self.encoder.embed(batch, layers)


@pytest.mark.usefixtures("small_shards")
def test_every_layer_comes_from_one_pass(bert: str, tmp_path: Path) -> None:
    data, store = open_dataset((TEXTS, LABELS)), FeatureStore(tmp_path)
    encoder: Any = Counted(load_encoder(bert))
    calls = encoder.calls
    item = features(data, encoder, store, layers="all")
    assert sum(calls) == len(TEXTS)
    assert list(item.layers) == ["layer1", "layer2", "layer3", "pooled"]
    for layer in item.layers:
        got = item.embedding(layer=layer).features
        np.testing.assert_allclose(got, alone(bert, TEXTS, layer), atol=1e-5)
    # all of it is kept, and layers that are there are not computed again
    calls.clear()
    again = features(data, encoder, store, layers=[2, -1])
    assert calls == []
    assert list(again.layers) == ["layer2", "layer3"]
    features(data, encoder, store, layers="mean")
    assert sum(calls) == len(TEXTS)


@pytest.mark.usefixtures("small_shards")
def test_the_mean_of_layers_is_their_mean(bert: str) -> None:
    item = features(open_dataset((TEXTS, LABELS)), bert, layers="mean")
    expected = np.mean([alone(bert, TEXTS, f"layer{n}") for n in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(item.embedding().features, expected, atol=1e-5)


@pytest.mark.parametrize("layers", ["last", "all"])
def test_streamed_layers_score_as_stored_ones(bert: str, layers: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"layers": layers, "batch_size": 6, "device": "cpu"}
    kept = transferscope.rank((TEXTS, LABELS), bert, "logme,h_score", store=tmp_path, **options)
    streamed = transferscope.rank((TEXTS, LABELS), bert, "logme,h_score", store=None, **options)
    for one, two in ((kept.best.scores, streamed.best.scores),):
        assert {n: s.value for n, s in one.items()} == pytest.approx(
            {n: s.value for n, s in two.items()}, rel=1e-5
        )
    assert kept.best.layer == streamed.best.layer
    assert list(kept.best.layers) == list(streamed.best.layers)


@pytest.mark.parametrize("keep", [True, False])
def test_truncation_is_reported_now_and_when_read_again(
    bert: str, keep: bool, tmp_path: Path
) -> None:
    texts = ["vow " * (100 if i % 10 == 0 else 3) + "dog" * (i % 2) for i in range(40)]
    for _ in range(2):
        ranking = transferscope.rank(
            (texts, [i % 2 for i in range(40)]), f"{bert}?max_length=20", "h_score",
            store=tmp_path if keep else None, device="cpu",
        )  # fmt: skip
        (warning,) = ranking.best.warnings
        assert warning.startswith(
            "4 samples have more tokens than it reads at once: of the longest "
        )
    assert "4 samples have more tokens" in ranking.to_csv()
    assert Ranking.from_json(ranking.to_json()) == ranking


def test_pictures_and_texts_are_told_apart(bert: str, tmp_path: Path) -> None:
    ranking = transferscope.rank(DIGITS, f"{bert},mini/resnet-random", "knn", store=tmp_path)
    assert ranking.best.encoder == "mini/resnet-random"
    assert "sample must be a text for this encoder; got Image" in (ranking.encoders[1].error or "")


# --- layers in a ranking ------------------------------------------------------------------------


def test_an_encoder_is_ranked_by_its_best_layer(bert: str, gpt2: str, tmp_path: Path) -> None:
    names = [bert, gpt2]
    metrics = "logme,knn"
    ranking = transferscope.rank(
        (TEXTS, LABELS), names, metrics, layers="all", store=tmp_path, device="cpu"
    )
    for row in ranking.encoders:
        assert list(row.layers) == ["layer1", "layer2", "layer3", "pooled"]
        for layer, scores in row.layers.items():
            literal = transferscope.score(alone(row.encoder, TEXTS, layer), LABELS, metrics)
            assert {n: s.value for n, s in scores.items()} == pytest.approx(
                {n: s.value for n, s in literal.scores.items()}, abs=1e-3
            )
        ranks = {
            layer: sum(
                sum(other[m].value > scores[m].value for other in row.layers.values())
                + sum(other[m].value == scores[m].value for other in row.layers.values()) / 2
                for m in ("logme", "knn")
            )
            for layer, scores in row.layers.items()
        }
        assert row.layer is not None
        assert ranks[row.layer] == min(ranks.values())
        assert row.scores["logme"].value == row.layers[row.layer]["logme"].value
        assert row.scores["logme"].low is not None
    again = transferscope.rank(
        (TEXTS, LABELS), names, metrics, layers="best", store=tmp_path, device="cpu"
    )
    assert [r.layer for r in again.encoders] == [r.layer for r in ranking.encoders]
    assert Ranking.from_json(ranking.to_json()) == ranking
    frame = ranking.layers_to_frame()
    assert frame.shape == (8, 2)
    assert (
        frame.loc[(bert, "layer2"), "knn"]
        == {r.encoder: r.layers["layer2"]["knn"].value for r in ranking.encoders}[bert]
    )
    assert list(ranking.to_frame().columns[:3]) == ["dataset", "rank", "layer"]
    assert "| layer |" in ranking.to_markdown()


def test_metrics_that_compare_encoders_work_on_the_chosen_layers(
    bert: str, gpt2: str, tmp_path: Path
) -> None:
    ranking = transferscope.rank(
        (TEXTS, LABELS), [bert, gpt2], "ncti,logme", layers="all", store=tmp_path, device="cpu"
    )
    assert set(ranking.best.scores) == {"ncti", "logme"}
    assert set(ranking.best.layers["layer1"]) == {"logme"}


def test_numbers_of_layers(bert: str, tmp_path: Path) -> None:
    def rank(layers: Any) -> Any:
        return transferscope.rank(
            (TEXTS, LABELS), bert, "h_score", layers=layers, store=tmp_path, device="cpu"
        ).encoders[0]

    assert list(rank("1,-1").layers) == ["layer1", "layer3"]
    one = rank([2])
    assert (one.layer, one.error) == ("layer2", None)
    assert "has 3 numbered layers, and no layer 4" in rank("2,4").error
    assert rank("last").layer is None
    assert rank("last").layers == {}
    for wrong in ("first", "", "0", "1;2"):
        with pytest.raises(InputError, match=r"last, mean, best, all, or numbers from 1"):
            rank(wrong)


def test_an_encoder_without_layers_says_so(tmp_path: Path) -> None:
    flat = transferscope.encoders.from_module(
        lambda images: images.mean(axis=(2, 3)),
        transferscope.encoders.ImagePreprocessing((8, 8), 8),
        identifier="flat",
    )
    ranking = transferscope.rank(DIGITS, flat, "knn", layers="mean", store=tmp_path)
    assert "no numbered layers" in (ranking.encoders[0].error or "")


def test_layers_of_different_widths_have_no_mean(tmp_path: Path) -> None:
    ranking = transferscope.rank(DIGITS, "mini/resnet-random", "knn", layers="mean", store=tmp_path)
    error = ranking.encoders[0].error or ""
    assert "different widths" in error or "no numbered layers" in error


# --- a reference task ---------------------------------------------------------------------------

REFERENCE = [f"{a} {b} vow" for a in (*ANIMALS, "box", "jug") for b in (*OTHERS, "vow", "dog")]
PED_METRICS = "logme+ped,gbc+ped,frechet,logme"


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("layers", ["last", "2,-1"])
def test_ped_takes_its_scale_from_texts_of_reference(
    bert: str, gpt2: str, layers: str, keep: bool, tmp_path: Path
) -> None:
    # classes that overlap: those that are far apart are not displaced, whatever the scale
    labels = ["even", "odd"] * 25
    reference_labels = [f"of {i % 3}" for i in range(len(REFERENCE))]
    ranking = transferscope.rank(
        (TEXTS, labels), [bert, gpt2], PED_METRICS, layers=layers, device="cpu",
        reference=(REFERENCE, reference_labels), store=tmp_path if keep else None,
    )  # fmt: skip
    assert {row.error for row in ranking.encoders} == {None}
    for row in ranking.encoders:
        found = row.layers or {"pooled": row.scores}
        assert len(found) == (1 if layers == "last" else 2)
        for layer, scores in found.items():
            literal = transferscope.score(
                alone(row.encoder, TEXTS, layer), labels, PED_METRICS,
                reference_features=alone(row.encoder, REFERENCE, layer),
                reference_labels=reference_labels,
            )  # fmt: skip
            assert not literal.skipped
            assert {name: score.value for name, score in scores.items()} == pytest.approx(
                {name: literal[name] for name in scores}, rel=1e-4
            )
        assert set(row.scores) == set(PED_METRICS.split(","))
        # without a reference PED's scale is the target's own, and there is nothing to compare with
        own = transferscope.score(alone(row.encoder, TEXTS, layer), labels, PED_METRICS)
        assert own["gbc+ped"] != pytest.approx(literal["gbc+ped"], rel=2e-4)
        assert "frechet" in own.skipped


def test_a_corpus_needs_no_labels_to_be_a_reference(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reviews = table(tmp_path / "reviews.csv", body=TEXTS, kind=LABELS, other=TEXTS)
    columns = {"input_column": "body", "label_column": "kind"}
    options: dict[str, Any] = {"device": "cpu", "store": tmp_path / "store"}
    literal = transferscope.score(
        alone(bert, TEXTS), LABELS, PED_METRICS, reference_features=alone(bert, REFERENCE)
    )
    corpora: list[Any] = [
        table(tmp_path / "text.csv", text=REFERENCE),
        table(tmp_path / "named_alike.csv", body=REFERENCE, other=REFERENCE[::-1]),
        table(tmp_path / "labelled.csv", text=REFERENCE, label=[i % 3 for i in range(49)]),
    ]
    (tmp_path / "words.json").write_text(json.dumps([{"text": t.split()} for t in REFERENCE]))
    corpora.append(tmp_path / "words.json")
    library = pytest.importorskip("datasets")
    corpora.append((REFERENCE, [i % 3 for i in range(49)]))
    corpora.append(library.Dataset.from_dict({"text": REFERENCE}))
    corpora.append(library.Dataset.from_dict({"text": [t.split() for t in REFERENCE]}))
    for corpus in corpora:
        ranking = transferscope.rank(
            open_dataset(reviews, **columns), bert, PED_METRICS,
            reference=open_reference(corpus, **columns), **options,
        )  # fmt: skip
        assert {n: s.value for n, s in ranking.best.scores.items()} == pytest.approx(
            {name: literal[name] for name in PED_METRICS.split(",")}, rel=1e-3
        ), corpus
    arguments = ("rank", reviews, "--input-column", "body", "--label-column", "kind", "-e", bert,
                 "-m", "logme+ped", "--store", tmp_path / "store")  # fmt: skip
    assert call(monkeypatch, *arguments, "--reference", corpora[1]) == 0
    assert "logme+ped" in capsys.readouterr().out
    bad = table(tmp_path / "bad.csv", one=REFERENCE, two=REFERENCE)
    assert call(monkeypatch, *arguments, "--reference", bad) == 2
    assert "several columns could be it (one, two)" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="needs one column of labels"):
        open_dataset(corpora[0])


def test_score_takes_text_features_and_their_reference_from_a_file(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    features, reference = alone(bert, TEXTS), alone(bert, REFERENCE)
    labels = np.unique(LABELS, return_inverse=True)[1]
    file = tmp_path / "reviews.npz"
    np.savez(file, features=features, labels=labels, reference_features=reference)
    assert call(monkeypatch, "score", file, "-m", "logme+ped", "--format", "json") == 0
    printed = json.loads(capsys.readouterr().out)
    expected = transferscope.score(features, labels, "logme+ped", reference_features=reference)
    assert printed["scores"]["logme+ped"]["value"] == pytest.approx(expected["logme+ped"])


# --- other tasks --------------------------------------------------------------------------------


def test_pairs_go_through_the_tokenizers_own_encoding(bert: str, tmp_path: Path) -> None:
    path = table(
        tmp_path / "pairs.csv",
        sentence1=TEXTS,
        sentence2=TEXTS[::-1],
        similarity=[i / 7 for i in range(50)],
    )
    ranking = transferscope.rank(
        open_dataset(path, label_column="similarity"), bert, store=tmp_path, device="cpu"
    )
    assert ranking.dataset.task == "regression"
    assert {"logme", "linear_probe"} <= set(ranking.best.scores)
    data = open_dataset(path, label_column="similarity")
    pairs = list(zip(TEXTS, TEXTS[::-1], strict=True))
    assert [data[i] for i in range(50)] == pairs
    got = features(data, bert).embedding().features
    np.testing.assert_allclose(got, alone(bert, pairs), atol=1e-5)
    named = open_dataset(path, label_column="similarity", input_column="sentence1,sentence2")
    assert named.fingerprint == data.fingerprint
    first = open_dataset(path, label_column="similarity", input_column="sentence1")
    assert first[0] == TEXTS[0]
    assert first.fingerprint != data.fingerprint
    with pytest.raises(DatasetError, match=r"'nothing' does not exist.*comma between for pairs"):
        open_dataset(path, label_column="similarity", input_column="sentence1,nothing")


def test_several_label_columns_are_a_multi_label_task(bert: str, tmp_path: Path) -> None:
    path = table(
        tmp_path / "multi.csv",
        text=TEXTS,
        fox=[int("fox" in t) for t in TEXTS],
        dog=[int("dog" in t) for t in TEXTS],
        length=[len(t) / 10 for t in TEXTS],
    )
    data = open_dataset(path, label_column="fox,dog", input_column="text")
    assert (data.task, data.class_names) == ("multilabel", ("fox", "dog"))
    ranking = transferscope.rank(data, bert, store=tmp_path, device="cpu")
    assert ranking.best.rank == 1
    both = open_dataset(path, label_column="fox,length", input_column="text")
    assert (both.task, both.labels.shape) == ("regression", (50, 2))
    with pytest.raises(DatasetError, match=r"'cat' does not exist"):
        open_dataset(path, label_column="fox,cat", input_column="text")


# --- words --------------------------------------------------------------------------------------

TAGGED = [
    (["the", "quick", "fox", "met", "my", "dog"], ["O", "B-A", "I-A", "O", "O", "B-D"]),
    (["dog"], ["B-D"]),
    (["pack", "the", "brown", "fox", "box"], ["O", "O", "B-A", "I-A", "O"]),
] * 6


@pytest.mark.usefixtures("small_shards")
def test_words_are_samples_with_a_tag_each(bert: str, tmp_path: Path) -> None:
    sentences, tags = map(list, zip(*TAGGED, strict=True))
    data = open_dataset((sentences, tags))
    assert data.task == "classification"
    assert data.class_names == ("B-A", "B-D", "I-A", "O")
    assert len(data) == 12 * 6
    assert data[7].words == ("pack", "the", "brown", "fox", "box")
    got = features(data, bert, batch_size=5).embedding()
    encoder: Any = load_encoder(bert)
    for row in range(len(data)):
        batch = encoder.preprocessing.collate([data[row]])
        expected = encoder.embed(batch).features["pooled"][0]
        np.testing.assert_allclose(got.features[row], expected, atol=1e-5)
    entities = open_dataset((sentences, tags), task="entities")
    assert entities.class_names == ("A", "D", "O")
    sample = data.subsample(per_class=3)
    assert len(sample) == 12
    ranking = transferscope.rank(
        data, bert, "knn", layers="all", store=tmp_path, device="cpu", batch_size=7
    )
    assert ranking.best.rank == 1


def test_the_same_words_from_every_kind_of_file(tmp_path: Path) -> None:
    sentences, tags = map(list, zip(*TAGGED, strict=True))
    expected = open_dataset((sentences, tags))
    flat = table(
        tmp_path / "tags.csv",
        text=[" ".join(s) for s in sentences],
        label=[" ".join(t) for t in tags],
    )
    records = [{"tokens": s, "label": t} for s, t in TAGGED]
    (tmp_path / "tags.json").write_text(json.dumps(records))
    (tmp_path / "tags.jsonl").write_text("\n".join(map(json.dumps, records)))
    sources: list[Any] = [tmp_path / "tags.json", tmp_path / "tags.jsonl"]
    library = pytest.importorskip("datasets")
    names = ["B-A", "B-D", "I-A", "I-X", "O"]
    kinds = library.Features(
        {
            "tokens": library.List(library.Value("string")),
            "ner_tags": library.List(library.ClassLabel(names=names)),
        }
    )
    ids = [[names.index(tag) for tag in its] for its in tags]
    table_ = library.Dataset.from_dict({"tokens": sentences, "ner_tags": ids}, features=kinds)
    table_.to_parquet(tmp_path / "tags.parquet")
    for source in [*sources, table_, tmp_path / "tags.parquet"]:
        data = open_dataset(source)
        assert data.fingerprint == expected.fingerprint, source
        assert data.class_names == expected.class_names
    shown = table(
        tmp_path / "shown.csv",
        text=sentences,
        label=tags,  # lists as Python writes them
    )
    assert open_dataset(shown).fingerprint == expected.fingerprint
    # words with spaces between are tagged only when that is asked for
    assert open_dataset(flat, task="tags").fingerprint == expected.fingerprint
    with pytest.raises(DatasetError, match=r"at least two|every class"):
        open_dataset(table(tmp_path / "few.csv", text=["a b", "c d"], label=["X Y", "Y X"]))


def test_words_and_tags_must_agree(tmp_path: Path) -> None:
    path = table(tmp_path / "bad.csv", text=["a b", "c", "d"], label=["O O", "O O", "X"])
    with pytest.raises(DatasetError, match=r"sentence 1 of bad has 1 words and 2 tags"):
        open_dataset(path, task="tags")
    with pytest.raises(DatasetError, match=r"for samples that are lists of words"):
        open_dataset((np.zeros((4, 3)), [0, 1, 0, 1]), task="entities")


def test_splits_of_words(tmp_path: Path) -> None:
    sentences, tags = map(list, zip(*TAGGED, strict=True))
    path = table(
        tmp_path / "tags.csv",
        text=[" ".join(s) for s in sentences],
        label=[" ".join(t) for t in tags],
        split=["train"] * 9 + ["test"] * 9,
    )
    data = open_dataset(path, task="tags")
    assert (data.split, len(data)) == ("train", 36)
    assert data[0].words == tuple(sentences[0])
    assert open_dataset(path, split="test", task="tags")[35].words == tuple(sentences[-1])


def test_json_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, message in (
        ("{", "list of records, one record per line"),
        ('[{"text": "a", "label": 1}, {"text": "b"}]', "record 1 is not like the first"),
        ("[1, 2]", "record 0 is not like the first"),
    ):
        path.write_text(text)
        with pytest.raises(DatasetError, match=message):
            open_dataset(path)
    records = [{"text": t, "label": ["a", "b"][: 1 + i % 2]} for i, t in enumerate(TEXTS)]
    path.write_text(json.dumps(records))
    data = open_dataset(path)
    assert (data.task, data.class_names) == ("multilabel", ("a", "b"))
    assert data.labels.sum(axis=0).tolist() == [50, 25]


# --- the command line ---------------------------------------------------------------------------


def call(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["transferscope", *map(str, arguments)])
    for console in (cli.stdout, cli.stderr):
        monkeypatch.setattr(console, "width", 200)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_the_command_of_the_issue(
    bert: str,
    gpt2: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = table(tmp_path / "reviews.csv", words_=TEXTS, kind=LABELS, more=TEXTS[::-1])
    rank = ("rank", path, "--label-column", "kind", "--encoders", f"{bert},{gpt2}?max_length=8",
            "--store", tmp_path / "store", "--metrics", "logme,knn")  # fmt: skip
    assert call(monkeypatch, *rank, "--input-column", "words_", "--layers", "all",
                "--plot", tmp_path / "layers.png") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "reviews (all): 50 samples, 2 classes" in out
    assert "note texts of column 'words_', classes of column 'kind'" in out
    assert any(line.startswith("┃") and "layer" in line for line in out.splitlines())
    assert sum(line.startswith("│layer") for line in out.splitlines()) == 6
    assert "samples have more tokens than it reads" in out
    assert shows_data(tmp_path / "layers.png")
    assert call(monkeypatch, *rank, "--input-column", "words_,more", "--layers", "best") == 0
    out = capsys.readouterr().out
    assert not any(line.startswith("│layer") for line in out.splitlines())
    # without layers the figure is that of the choice
    figure = tmp_path / "choice.png"
    assert call(monkeypatch, *rank, "--input-column", "words_", "--plot", figure) == 0
    assert shows_data(figure)
    assert call(monkeypatch, *rank, "--input-column", "words_", "--layers", "some") == 2


def test_words_on_the_command_line(
    bert: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = table(
        tmp_path / "tags.csv",
        text=[" ".join(s) for s, _ in TAGGED],
        label=[" ".join(t) for _, t in TAGGED],
    )
    arguments = ("rank", path, "-e", bert, "-m", "knn", "--store", tmp_path, "--task", "entities")
    assert call(monkeypatch, *arguments) == 0
    assert "72 samples, 3 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "n_classes"), [("classification", 2), ("regression", 0), ("entities", 3)]
)
def test_a_sample_of_a_larger_file(bert: str, task: str, n_classes: int, tmp_path: Path) -> None:
    texts: list[str] = TEXTS * 8
    labels: list[Any] = LABELS * 8
    if task == "regression":
        labels = [len(text) / 10 for text in texts]
    elif task == "entities":
        texts = [" ".join(words) for words, _ in TAGGED * 8]
        labels = [" ".join(tags) for _, tags in TAGGED * 8]
    path = table(tmp_path / "large.csv", text=texts, label=labels)
    ranking = transferscope.rank(
        open_dataset(path, task=task, max_samples=200),
        bert,
        "logme,knn",
        store=tmp_path,
        device="cpu",
    )
    kind = "classification" if task == "entities" else task
    assert (ranking.dataset.task, ranking.dataset.n_classes) == (kind, n_classes)
    assert ranking.dataset.n_samples == 200
    assert set(ranking.best.scores) == {"logme", "knn"}
