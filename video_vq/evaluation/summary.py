"""Scores as a table that a person reads, with what they must beat beside them."""

from typing import Any

from video_vq.metrics.protocol import fvd_protocol

SMALL = 256


def summary(scores: dict[str, Any]) -> str:
    """Return the scores of `evaluate` as lines of text."""
    reconstruction, controls = scores["reconstruction"], scores["controls"]
    use = reconstruction["codebook"]
    lines = [
        f"reconstruction of {scores['num_clips']} clips of split {scores['split']}",
        _line("PSNR, dB", reconstruction["psnr"]["mean"], "higher is better"),
        *_controls(controls, "psnr_"),
        _line("SSIM", reconstruction["ssim"]["mean"], "higher is better"),
        *_beside(reconstruction),
        _line("rFVD", reconstruction["rfvd"]["value"], "lower is better"),
        _line("code usage", use["code_usage"], f"of K, over split {scores['split']}"),
        _line("perplexity", use["perplexity"], f"{use['relative_perplexity']:.2f} of K"),
        _line("bits per clip", reconstruction["bits_per_clip"], ""),
    ]
    if "prior" in scores:
        prior = scores["prior"]
        lines += ["", f"prior on {prior['num_grids']} clips of split {prior['split']}"]
        lines += [_line("bits per token", prior["bits_per_token"], "lower is better")]
        lines += [
            _line(f"  control: {name.replace('_', ' ')}", value, _gain(value, prior))
            for name, value in sorted(prior["predictors"].items())
        ]
    if "generation" in scores:
        gfvd = scores["generation"]["gfvd"]
        lines += ["", f"samples: {gfvd['num_fake']} against {gfvd['num_real']} real clips"]
        lines += [_line("gFVD", gfvd["value"], "lower is better"), *_controls(controls, "fvd_")]
        lines += _of_samples(scores["generation"])
    if scores["floor"] is not None:
        floor = scores["floor"]
        lines += [
            "",
            _line("FVD floor", floor["distance"], f"real against real at N = {floor['num_clips']}"),
        ]
    return "\n".join([*lines, "", *remarks(scores)])


def remarks(scores: dict[str, Any]) -> list[str]:
    """Return the protocol's line, then what a reader must know before using the numbers."""
    fake = scores.get("generation", {}).get("gfvd", {}).get("num_fake", scores["num_clips"])
    counts = (scores["num_clips"], fake)
    lines = [fvd_protocol(scores["protocol"]["name"]).describe(counts)]
    lines += [] if (told := simulation(scores)) is None else [told]
    lines += _counts(scores)
    if scores["split"] == "train":
        lines.append("the reference is the training split: these scores flatter the model")
    if min(counts) < SMALL:
        lines.append(
            f"FVD at N = {min(counts)} is an illustration: below {SMALL} clips its bias is "
            "larger than most differences"
        )
    return lines


def simulation(scores: dict[str, Any]) -> str | None:
    """Return the sentence that the videos are simulated, None where nothing says so."""
    label = at(scores, "made_by", "data", "simulated")
    if not isinstance(label, str):
        return None
    name = at(scores, "generation", "protocol", "name")
    under = f"; {name} says how clips and samples were taken, not which videos" if name else ""
    return f"The videos are simulated ({label}): no score compares with a published one{under}."


def at(value: Any, *keys: str) -> Any:
    """Return what stands at a place in JSON, None where there is no such place."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _counts(scores: dict[str, Any]) -> list[str]:
    """Return a line for each number of clips that is not what a reader would take it to be."""
    lines = []
    num_real, asked = scores["num_clips"], scores["identity"].get("num_clips", 0)
    if num_real < asked:
        lines.append(
            f"{num_real} real clips were scored, not {asked}: split {scores['split']} holds no "
            "more clips of this length that do not overlap"
        )
    generation = scores.get("generation", {})
    found = generation.get("num_samples")  # scores of an earlier version do not say
    if found is None:
        return lines
    num_fake = generation["gfvd"]["num_fake"]
    if num_fake < found:
        lines.append(
            f"of {found} samples the first {num_fake} were scored, as many as there are real clips"
        )
    if num_fake != num_real and generation.get("protocol") is None:
        lines.append(
            f"gFVD is of {num_fake} samples against {num_real} real clips: published numbers "
            f"mostly use as many on both sides; `video-vq sample --num {num_real}` makes them equal"
        )
    return lines


def _line(name: str, value: float | None, remark: str) -> str:
    if value is None:
        return f"  {name:<34}{'exact':>10}  {remark}".rstrip()
    return f"  {name:<34}{value:>10.3f}  {remark}".rstrip()


def _gain(control: float, prior: dict[str, Any]) -> str:
    bits = control - prior["bits_per_token"]
    return f"the prior saves {bits:.3f}" if bits > 0 else "the prior is NOT better"


def _beside(reconstruction: dict[str, Any]) -> list[str]:
    remarks = {
        "st_lpips": "lower is better",
        "motion_energy_ratio": "1 is right; below it motion is lost",
        "flicker": "grey levels of change that was added; 0 is best",
    }
    return [
        _line(name.replace("_", " ").replace("st lpips", "ST-LPIPS"), found["mean"], remark)
        for name, remark in remarks.items()
        if (found := reconstruction.get(name)) is not None and found["mean"] is not None
    ]


def _of_samples(generation: dict[str, Any]) -> list[str]:
    lines = [_line("diversity, to real clips'", generation["diversity"]["ratio"], "1 is right")]
    if (copied := generation.get("memorisation")) is not None:
        lines += [
            _line("distance to training clips", copied["samples_median"], "grey levels, median"),
            _line("  the same of held-out clips", copied["held_out_median"], ""),
        ]
    if (found := generation.get("classes")) is not None:  # none without classes
        real, made = found["accuracy_real"], found["accuracy_samples"]
        share = f"{100 * made / real:.0f} % of real clips'" if real else "of no use: real clips'"
        lines += [
            _line("class accuracy of samples", made, f"{share}; a small classifier tells them"),
            _line("  the same of held-out clips", real, f"chance {1 / found['num_classes']:.3f}"),
        ]
    return lines


def _controls(controls: dict[str, float | None], prefix: str) -> list[str]:
    return [
        _line(f"  control: {name.removeprefix(prefix).replace('_', ' ')}", value, "")
        for name, value in sorted(controls.items())
        if name.startswith(prefix)
    ]
