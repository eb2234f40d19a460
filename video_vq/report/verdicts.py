"""Explains scores in words: what each score means, and whether the score beats its controls."""

from typing import Any

from video_vq.facts import codes
from video_vq.report.blocks import Headline, Headlines, Row, Table

CONTROL_NAMES = {
    "psnr_clip_mean": "each clip's mean picture, standing still",
    "psnr_first_frame": "the first frame, repeated",
    "psnr_kmeans_patches": "k-means on raw patches, same tokens and codes",
    "psnr_h264": "H.264 at the tokens' bits",
    "psnr_hevc": "HEVC at the tokens' bits",
    "psnr_av1": "AV1 at the tokens' bits",
    "psnr_h264_above": "H.264, which needs more than the tokens' bits",
    "psnr_hevc_above": "HEVC, which needs more than the tokens' bits",
    "psnr_av1_above": "AV1, which needs more than the tokens' bits",
    "fvd_first_frame": "the real clips' first frames, standing still",
    "fvd_tokens_per_position": "tokens drawn position by position",
    "token_frequencies": "token frequencies",
    "frequencies_per_position": "token frequencies per position",
    "copy_previous_frame": "copy of the previous latent frame, fitted error rate",
}

BESIDE = {
    "st_lpips": ("ST-LPIPS", "↓ 0 is equal; shift-tolerant perceptual distance"),
    "motion_energy_ratio": ("motion-energy ratio", "→ 1 is right; below it motion is lost"),
    "flicker": ("flicker", "↓ grey levels of frame-to-frame change that were added"),
    "boundary_flicker": (
        "flicker at latent boundaries",
        "→ 1 is right; change there over change elsewhere, over the same of the original",
    ),
}


def headlines(scores: dict[str, Any]) -> Headlines:
    """Return the scores to read first, each with a verdict."""
    found, controls = scores["reconstruction"], scores["controls"]
    within = {  # a codec that exceeds the tokens' bit budget is no control
        name: value for name, value in _of(controls, "psnr_").items() if not name.endswith("_above")
    }
    items = [
        _judged("PSNR", found["psnr"]["mean"], "dB", within, higher=True),
        _against_floor(_fvd(scores, "rFVD"), found["rfvd"], scores["floor"]),
    ]
    if "bits_per_token" in (prior := scores.get("prior", {})):
        rate = prior["bits_per_token"]
        items.append(
            _judged("prior's rate", rate, "bits per token", prior["predictors"], higher=False)
        )
    if "generation" in scores:
        value = scores["generation"]["gfvd"]["value"]
        items.append(_judged(_fvd(scores, "gFVD"), value, "", _of(controls, "fvd_"), higher=False))
    return Headlines(tuple(items))


def _of(controls: dict[str, float | None], prefix: str) -> dict[str, float | None]:
    return {name: value for name, value in controls.items() if name.startswith(prefix)}


def _judged(
    name: str, value: float | None, unit: str, controls: dict[str, float | None], higher: bool
) -> Headline:
    """Return a headline that compares a score with its hardest control."""
    if value is None:
        return Headline(name, "exact", "", "every clip comes back bit for bit", True)
    known = {key: level for key, level in controls.items() if level is not None}
    if not known:
        told = "no control was computed; evaluate with --controls"
        return Headline(name, _number(value), unit, told, None)
    hardest = (max if higher else min)(known, key=lambda key: known[key])
    good = (value > known[hardest]) == higher and value != known[hardest]
    verb = "beats" if good else "does not beat"
    told = f"{verb} the hardest control, {_number(known[hardest])}: {_name(hardest)}"
    return Headline(name, _number(value), unit, told, good)


def _against_floor(name: str, fvd: dict[str, Any], floor: dict[str, Any] | None) -> Headline:
    value, num = fvd["value"], fvd["num_fake"]
    if floor is None:
        told = f"N = {num}; 0 is perfect; no floor: too few source videos"
        return Headline(name, _number(value), "", told, None)
    few = floor["num_clips"]
    told = (
        f"N = {num}; 0 is perfect. The floor, real clips against other real clips, is "
        f"{_number(floor['distance'])} at N = {few}: it shows how far from 0 FVD stays where "
        f"nothing differs. FVD grows as N falls, so N = {few} and N = {num} cannot be compared"
    )
    return Headline(name, _number(value), "", told, None)


def score_table(scores: dict[str, Any]) -> Table:
    """Return a table of all scores with N and meaning, each followed by its controls."""
    found, controls, num = scores["reconstruction"], scores["controls"], scores["num_clips"]
    use, psnr = found["codebook"], found["psnr"]
    spread = f"; 5 % of the clips lie below {psnr['q05']:.2f}" if "q05" in psnr else ""
    rows = [
        _row("PSNR, dB", psnr["mean"], num, f"↑ squared error of the pixels{spread}"),
        *_controls(_of(controls, "psnr_")),
        _row("SSIM", found["ssim"]["mean"], num, "↑ 1 is equal; structure in a window of pixels"),
        *(
            _row(name, found[key]["mean"], num, note)
            for key, (name, note) in BESIDE.items()
            if found.get(key, {}).get("mean") is not None
        ),
        *_distances(
            "r", scores, found["rfvd"], num, "↓ distance of reconstructions to their clips"
        ),
        _row("code usage", use["code_usage"], num, "↑ share of the codes that occur"),
        _row("perplexity", use["perplexity"], num, _of_codes(found)),
        _row("bits per clip", found["bits_per_clip"], num, "what the tokens cost, uncompressed"),
    ]
    if "bits_per_hidden_token" in (prior := scores.get("prior", {})):
        told = f"↓ cross entropy of hidden tokens on split {prior['split']}; no code length"
        bits, count = prior["bits_per_hidden_token"], prior["num_grids"]
        rows.append(_row("masked prior, bits per hidden token", bits, count, told))
    if "bits_per_token" in prior:
        rate, count = prior["bits_per_token"], prior["num_grids"]
        rows.append(
            _row("prior, bits per token", rate, count, f"↓ code length on split {prior['split']}")
        )
        rows += [
            row._replace(note=_saved(level - rate))
            for row, level in zip(
                _controls(prior["predictors"]), prior["predictors"].values(), strict=True
            )
        ]
    if "generation" in scores:
        gfvd = scores["generation"]["gfvd"]
        counts = f"{gfvd['num_fake']} to {gfvd['num_real']}"
        rows += _distances("g", scores, gfvd, counts, "↓ distance of samples to real clips")
        rows += _controls(_of(controls, "fvd_"))
        rows += _of_samples(scores["generation"], counts)
    if scores["floor"] is not None:
        floor = scores["floor"]
        told = (
            "real clips to other real clips: the FVD of no difference at this N, and only at this N"
        )
        rows.append(_row("FVD floor", floor["distance"], floor["num_clips"], told))
    return Table(("score", "value", "N"), tuple(rows))


def _of_codes(found: dict[str, Any]) -> str:
    vocabulary = found.get("vocabulary", ())  # missing in scores of earlier versions
    several = ", mean over the codes of a position" if len(vocabulary) > 1 else ""
    return f"↑ of {codes(vocabulary) or 'K'} codes{several}"


CODEC_SCORES = {"psnr": ("PSNR", 1), "ssim": ("SSIM", 1), "st_lpips": ("ST-LPIPS", -1)}
RATES = {"tokens": "the tokens' bits", "prior": "the bits after the prior"}


def codec_sentences(scores: dict[str, Any]) -> list[str]:
    """Return sentences that compare each codec at each rate with the tokenizer."""
    return [_codec_sentence(codec, scores["reconstruction"]) for codec in scores.get("codecs", [])]


def _codec_sentence(codec: dict[str, Any], ours: dict[str, Any]) -> str:
    pairs = {
        name: (codec[key]["mean"], ours[key]["mean"], sign)
        for key, (name, sign) in CODEC_SCORES.items()
        if key in codec and key in ours
    }
    pairs["rFVD"] = (codec["rfvd"]["value"], ours["rfvd"]["value"], -1)
    known = {name: pair for name, pair in pairs.items() if None not in pair}
    told = ", ".join(
        f"{name} {_number(a)} against {_number(b)}" for name, (a, b, _) in known.items()
    )
    better = [name for name, (a, b, sign) in known.items() if sign * (a - b) > 0]
    took = f"{codec['bits_per_clip']:,.0f} a clip, took {codec['payload_bits']:,.0f}"
    if (above := codec["share_above"]) > 0:
        took += f", as {above:.0%} of the clips need more"
    return f"{codec['title']} wins in {_listed(better)} at {RATES[codec['rate']]} ({took}): {told}"


def _listed(names: list[str]) -> str:
    if len(names) < 2:
        return names[0] if names else "nothing"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _fvd(scores: dict[str, Any], name: str) -> str:
    """Return the name of an FVD score, preceded by "padded" if the protocol pads clips."""
    return name if scores["protocol"].get("pad_to") is None else f"padded {name}"


def _distances(
    of: str, scores: dict[str, Any], found: dict[str, Any], num: int | str, meaning: str
) -> list[Row]:
    """Return a row for FVD and, if JEDi was computed, a row for JEDi."""
    rows = [_row(_fvd(scores, f"{of}FVD"), found["value"], num, meaning)]
    if "jedi" in found:
        told = "↓ the same by JEDi; smaller sets have a larger one"
        rows.append(_row(f"{of}JEDi", found["jedi"], num, told))
    return rows


def _saved(bits: float) -> str:
    return f"the prior saves {bits:.3f} bits" if bits > 0 else "the prior is NOT better"


def _of_samples(generation: dict[str, Any], counts: str) -> list[Row]:
    rows, num_fake = [], generation["gfvd"]["num_fake"]
    if (spread := generation.get("diversity")) is not None:
        told = (
            "→ 1 is right; mean squared distance among samples, over that among real clips. Below "
            "1 samples are more alike than real clips are"
        )
        rows.append(_row("diversity", spread["ratio"], counts, told))
    if (copied := generation.get("memorisation")) is not None:
        told = (
            f"→ {copied['held_out_median']:.1f}, that of held-out real clips, is right; RMS grey "
            f"levels to the nearest of {copied['num_train_clips']:,} training clips, median. "
            f"{copied['share_nearer_than_that']:.1%} lie nearer than 99 % of held-out clips do"
        )
        among = f"{num_fake} to {copied['num_train_clips']:,}"
        rows.append(_row("distance to training clips", copied["samples_median"], among, told))
    if (found := generation.get("classes")) is not None:  # missing without classes
        real, chance = found["accuracy_real"], 1 / found["num_classes"]
        told = (
            f"→ {real:.3f}, that of held-out real clips, is right; chance {chance:.3f}. Share of "
            "samples whose class a small classifier recognises"
        )
        num = f"{found['num_samples']} to {found['num_real']}"
        rows.append(_row("class accuracy", found["accuracy_samples"], num, told))
    return rows


def _row(name: str, value: float | None, num: int | str, meaning: str) -> Row:
    return Row((name, "exact" if value is None else _number(value), str(num)), meaning)


def _controls(controls: dict[str, float | None]) -> list[Row]:
    return [
        Row((_name(name), "exact" if value is None else _number(value), ""), below=True)
        for name, value in controls.items()
    ]


def _name(control: str) -> str:
    return CONTROL_NAMES.get(control, control.replace("_", " "))


def _number(value: float) -> str:
    return (
        f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if value < 1 else f"{value:.2f}"
    )
