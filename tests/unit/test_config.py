"""Tests that the config loader reports all mistakes at once and reads numbers as written."""

import pytest

from video_vq.config import (
    check_config,
    find_config,
    load_config,
    parse_overrides,
    shipped_configs,
    to_json,
)
from video_vq.errors import ConfigError
from video_vq.training.training_config import PriorTrainingConfig, TokenizerTrainingConfig


def test_every_problem_is_reported_at_once_with_the_nearest_name(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("optim: {lrr: 1}\nmodel: {quantizer: {codebok_size: 3, decay: 2.0}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(TokenizerTrainingConfig, path)
    message = str(caught.value)
    assert "3 problems" in message
    assert "optim.lrr: no such setting; did you mean 'lr'?" in message
    assert "model.quantizer.codebok_size: no such setting; did you mean 'codebook_size'?" in message
    assert "model.quantizer.decay: Input should be less than 1 (found 2.0)" in message


@pytest.mark.parametrize(
    ("settings", "override", "hint"),
    [
        (TokenizerTrainingConfig, "steps=10", "steps: no such setting; did you mean optim.steps?"),
        (TokenizerTrainingConfig, "lr=1e-4", "did you mean optim.lr?"),
        (TokenizerTrainingConfig, "run.steps=10", "run.steps: no such setting; did you mean optim"),
        (TokenizerTrainingConfig, "optim.seed=1", "did you mean run.seed?"),
        (TokenizerTrainingConfig, "codebook_size=9", "did you mean model.quantizer.codebook_size?"),
        (TokenizerTrainingConfig, "model.quantizer.estimater=none", "did you mean 'estimator'?"),
        (
            TokenizerTrainingConfig,
            "model.quantizer.estimator=rotatoin",
            "'hessian' or 'none' (found 'rotatoin'); did you mean 'rotation'?",
        ),
        (TokenizerTrainingConfig, "causal=true", "did you mean model.backbone.causal?"),
        (
            TokenizerTrainingConfig,
            "levels=[5,5]",
            "did you mean model.quantizer.levels or loss.adversarial.levels?",
        ),
        (TokenizerTrainingConfig, "model.quantizer.levels=[5,5]", "belongs to a `kind` other than"),
        (TokenizerTrainingConfig, "batchsize=10", "did you mean optim.batch_size?"),
        (
            TokenizerTrainingConfig,
            "weight=1",
            "did you mean loss.perceptual.weight or loss.adversarial.weight?",
        ),
        (PriorTrainingConfig, "depth=3", "did you mean model.depth?"),
        (PriorTrainingConfig, "optim.lrr=1", "did you mean 'lr'?"),
        (PriorTrainingConfig, "optim.zzzzzzzz=1", "known: accumulation, "),
    ],
)
def test_a_setting_without_its_section_is_answered_by_its_place(tmp_path, settings, override, hint):
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ConfigError) as caught:
        load_config(settings, tmp_path / "empty.yaml", [override])
    assert hint in str(caught.value)


@pytest.mark.parametrize("settings", [TokenizerTrainingConfig, PriorTrainingConfig])
def test_every_setting_is_found_by_its_last_name_alone(settings):
    def leaves(value: dict, prefix: str = "") -> list[str]:
        found = []
        for name, inner in value.items():
            deeper = isinstance(inner, dict)
            found += leaves(inner, f"{prefix}{name}.") if deeper else [f"{prefix}{name}"]
        return found

    paths = leaves(to_json(settings()))
    assert len(paths) > 15
    for path in paths:
        section, _, leaf = path.rpartition(".")
        if not section:
            continue
        with pytest.raises(ConfigError) as caught:
            check_config(settings, {leaf: 1}, "test")
        (meant,) = [line for line in str(caught.value).splitlines() if "no such setting" in line]
        assert path in meant


def test_a_config_lies_over_its_base_and_overrides_lie_over_both(tmp_path):
    (tmp_path / "base.yaml").write_text("optim: {lr: 1e-3, steps: 7}\nrun: {seed: 1}\n")
    (tmp_path / "child.yaml").write_text("base: base.yaml\noptim: {steps: 8}\n")
    config = load_config(
        TokenizerTrainingConfig, tmp_path / "child.yaml", ["run.seed=3", "optim.betas=[0.5,0.6]"]
    )
    assert (config.optim.lr, config.optim.steps, config.run.seed) == (1e-3, 8, 3)
    assert config.optim.betas == (0.5, 0.6)


def test_another_kind_begins_anew_and_the_same_kind_goes_on(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "model: {backbone: {kind: conv, channels: 32}, quantizer: {kind: vector, decay: 0.5}}\n"
    )
    (tmp_path / "child.yaml").write_text(
        "base: base.yaml\nmodel: {quantizer: {kind: finite, levels: [5, 5]}}\n"
    )
    model = to_json(load_config(TokenizerTrainingConfig, tmp_path / "child.yaml"))["model"]
    assert model["backbone"]["channels"] == 32
    assert (model["quantizer"]["kind"], model["quantizer"]["levels"]) == ("finite", [5, 5])
    assert "decay" not in model["quantizer"]
    again = ["model.quantizer.kind=vector", "model.backbone.kind=conv"]
    model = to_json(load_config(TokenizerTrainingConfig, tmp_path / "base.yaml", again))["model"]
    assert (model["backbone"]["channels"], model["quantizer"]["decay"]) == (32, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: a.yaml\n", "is circular or too long"),
        ("optim: {lr: 1e-3\n", "not valid YAML"),
        ("- 1\n", "expected a mapping"),
        ("optim: {lr: 1, lr: 2}\n", "given twice"),
        ("a: &x {lr: 1}\noptim: *x\n", "aliases are not allowed"),
        ("optim: {steps: !!python/object:os.system x}\n", "not valid YAML"),
        ("optim: {lr: .nan}\n", "Out of range float"),
        ("optim: {batch_size: 7, accumulation: 2}\n", "must be a multiple of accumulation"),
    ],
)
def test_bad_files_are_refused_with_the_reason(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(TokenizerTrainingConfig, path)


def test_bad_overrides_and_names_are_refused():
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        parse_overrides(["optim.lr"])
    with pytest.raises(
        ConfigError, match=r"did you mean 'demo/tokenizer'\? The shipped ones are: .*bair"
    ):
        find_config("demo/tokenzer", "tokenizer")
    with pytest.raises(
        ConfigError, match=r"no shipped config has this name; the shipped ones are: .*bair"
    ):
        find_config("mine", "tokenizer")
    with pytest.raises(ConfigError, match="no such config file"):
        find_config("nowhere.yaml", "tokenizer")
    with pytest.raises(ConfigError, match=r"give a \.yaml file or the name"):
        find_config("../../etc/passwd", "tokenizer")


def test_another_optimizer_keeps_the_settings_that_all_optimizers_have(tmp_path):
    (tmp_path / "muon.yaml").write_text("optim: {kind: muon, steps: 7, lr: 0.5}\n")
    (tmp_path / "adamw.yaml").write_text("base: muon.yaml\noptim: {kind: adamw}\n")
    for name, overrides in (("muon", ["optim.kind=adamw"]), ("adamw", [])):
        config = load_config(TokenizerTrainingConfig, tmp_path / f"{name}.yaml", overrides)
        assert (config.optim.kind, config.optim.steps, config.optim.lr) == ("adamw", 7, 0.5)


@pytest.mark.parametrize(
    ("kind", "settings"), [("tokenizer", TokenizerTrainingConfig), ("prior", PriorTrainingConfig)]
)
def test_every_shipped_config_is_valid_and_survives_json(kind, settings):
    paths = [*(shipped_configs() / kind).rglob("*.yaml")]
    paths += shipped_configs().glob(f"*/{kind}*.yaml")
    assert paths
    for path in paths:
        config = load_config(settings, path)
        assert check_config(settings, to_json(config), "json") == config
