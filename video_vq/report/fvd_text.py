"""Prints the results of `video-vq fvd`: scores to stdout, warnings to stderr."""

import sys
from typing import Any

from video_vq.metrics.network_choice import I3D_NAME


def show(result: dict[str, Any]) -> None:
    """Print the result of `FVDComparison.scores`."""
    for under in result["protocols"]:
        for score in under["scores"]:
            _show_score(score, _title(result, under), under)
        if under["floor"] is not None:
            floor = under["floor"]
            print(
                f"  floor {floor['distance']:.2f}: real clips against other real clips at "
                f"N = {floor['num_clips']}, the largest N of disjoint sets"
            )
            print("  (with fewer clips FVD is larger: compare only at equal N)")
        else:
            print("  no floor: fewer than 4 real clips, or only one source video")
        for difference in under["differences"]:
            print(f"  {difference['sentence']}")
        print(f"  {under['citation']}")
        if under["assumed"]:
            print(f"  ({under['assumed']})")
    for side in (result["real"], *result["candidates"]):
        split = "" if side["split"] is None else f"split {side['split']}, "
        print(f"{side['name']}: {split}{_count(side['num_clips'], 'clip')} of ", end="")
        print(_count(side["num_videos"], "source video"))
    network = result["network"]
    print(f"network {network['name']} {network['sha256'][:12]}, real data {_hashes(result)}")
    for side in (result["real"], *result["candidates"]):
        _complain(side["name"], side["left_out"])
    _warn(result["warnings"])


def _warn(warnings: list[str]) -> None:
    """Print warnings below the scores, even if stdout and stderr go to the same file."""
    sys.stdout.flush()
    if len(warnings) == 1:
        print(f"warning: {warnings[0]}", file=sys.stderr)
    elif warnings:
        print(f"{len(warnings)} warnings:", file=sys.stderr)
        for warning in warnings:
            print(f"  {warning}", file=sys.stderr)


def show_sanity(result: dict[str, Any]) -> None:
    """Print the result of `sanity` as a table with an interpretation."""
    for under in result["protocols"]:
        title = _title(result, under)
        columns = {"fvd": title}
        if "jedi" in under["changes"][0]:
            columns["jedi"] = "JEDi"
        width = max(map(len, columns.values())) + 12
        heads = "".join(f"{head:>{width}}" for head in columns.values())
        print(f"what was done to each clip ({under['settings']['name']})".ljust(42) + heads)
        print(f"  {'nothing':40}" + f"{'0':>{width}}" * len(columns))
        for change in under["changes"]:
            numbers = "".join(f"{change[key]:>{width}.4g}" for key in columns)
            print(f"  {change['title']:40}{numbers}")
        if (floor := under["floor"]) is not None:
            print(
                f"  floor {floor['distance']:.4g}: real clips against other real clips at "
                f"N = {floor['num_clips']}; unlike the rows above, it includes sampling noise"
            )
        print(f"  {_seen(under['changes'], title)}")
    network = result["network"]
    print(f"network {network['name']} {network['sha256'][:12]}; ", end="")
    print(f"{_count(result['num_clips'], 'clip')} of {result['num_frames']} frames from ", end="")
    print(f"{result['real']}, against themselves")
    _complain(result["real"], result["left_out"])
    _warn(result["warnings"])


def _seen(changes: list[dict[str, Any]], title: str) -> str:
    """Return a sentence on which motion changes have less effect than blurring the frames."""
    [blur] = [change["fvd"] for change in changes if change["name"] == "blurred"]
    weak = [c["title"] for c in changes if c["name"] != "blurred" and c["fvd"] < blur]
    if not weak:
        return f"every change of the motion costs more {title} than the blur of the pictures"
    return f"less {title} than the blur of the pictures: {', '.join(weak)}"


def _title(result: dict[str, Any], under: dict[str, Any]) -> str:
    """Return the name of the distance, which is plain FVD only for I3D on unpadded clips."""
    if under["settings"].get("pad_to") is not None:
        return "padded FVD"
    network = result["network"]["name"]
    return "FVD" if network == I3D_NAME else f"FVD on {network}"


def _show_score(score: dict[str, Any], title: str, under: dict[str, Any]) -> None:
    if "jedi" in score:
        print(f"JEDi {score['jedi']:.4g}  {score['name']}  (smaller sets have a larger one)")
    told = f"{title} {score['fvd']:.2f}"
    if score["fvd_error"] is not None:
        told += f" ± {score['fvd_error']:.2f}"
    else:
        told += " (error not estimated: fewer than 8 source videos on a side)"
    told += f"  {score['name']}  ({under['settings']['name']})"
    print(told)
    if score["kvd"] is not None:
        kvd = score["kvd"]
        print(f"  KVD {kvd['value']:.4g} ± {kvd['standard_error']:.2g}, unbiased at any N")
    if score["fvd_infinity"] is not None:
        limit = score["fvd_infinity"]
        print(f"  at infinite N {limit['value']:.2f} ± {limit['standard_error']:.2f}, extrapolated")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _hashes(result: dict[str, Any]) -> str:
    fakes = ", ".join(side["data"][:12] for side in result["candidates"])
    return f"{result['real']['data'][:12]}, generated {fakes}"


def _complain(name: str, left_out: list[str]) -> None:
    if left_out:
        print(f"left out of {name}: {len(left_out)}", file=sys.stderr)
        for line in left_out[:10]:
            print(f"  {line}", file=sys.stderr)
