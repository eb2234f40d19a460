"""Clip store to token store and back: sharded over ranks, a shard is the unit that is committed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float

from video_vq.data.actions import actions_of_window, num_action_dims, row_dims_of
from video_vq.data.loader import read_windows
from video_vq.data.windows import Window, every_window
from video_vq.errors import InputError
from video_vq.models.prior import Prior
from video_vq.models.tokenizer import VideoTokenizer, to_uint8
from video_vq.progress import progress
from video_vq.stores.clips import ClipStore, ClipStoreWriter, PreparedVideo, Video
from video_vq.stores.tokens import TokenHeader, TokenStore, TokenStoreWriter
from video_vq.stores.videos import commonest_fps

CLIPS_PER_SHARD = 1024


def encode_store(
    accelerator: Accelerator,
    data: Path,
    tokenizer_path: Path,
    out: Path,
    hop: int | None = None,
    batch_size: int = 16,
) -> TokenStore:
    """Turn every clip of a store into tokens; the same call again goes on where it stopped.

    Args:
        accelerator: shares the shards among its ranks.
        data: a clip store.
        tokenizer_path: a tokenizer's folder, or the run folder it is in.
        out: the token store.
        hop: frames from one clip's start to the next in the same video; None for clips that
            follow each other without overlap.
        batch_size: clips at a time.

    Raises:
        InputError: a store or the tokenizer is missing or damaged, or the sizes do not fit.
    """
    tokenizer = VideoTokenizer.from_pretrained(tokenizer_path, device=accelerator.device)
    store = ClipStore(data)
    num_frames, stride = tokenizer.facts.num_frames, tokenizer.facts.stride
    grid_thw = tokenizer.config.backbone.grid_thw((num_frames, *store.frame_size_hw))
    hop = hop or num_frames * stride
    windows = [
        window
        for split in sorted({video.split for video in store.videos})
        for window in _windows_of(store, split, num_frames, stride, hop)
    ]
    if not windows:
        raise InputError(
            f"{data}: no video is as long as a clip of this tokenizer ({num_frames} frames at "
            f"stride {stride}); prepare longer videos"
        )
    header = TokenHeader(
        tokenizer_hash=tokenizer.hash,
        codebook_size=tokenizer.config.quantizer.codebook_size,
        grid_thw=grid_thw,
        num_frames=num_frames,
        frame_size_hw=store.frame_size_hw,
        fps=_common_fps(store, stride),
        classes=store.classes,
        data_hash=store.content_hash,
        made_by={
            "hop": hop,
            "clips_per_shard": CLIPS_PER_SHARD,
            "windows": len(windows),
            "precision": accelerator.mixed_precision,
        },
        num_action_dims=num_action_dims(
            row_dims_of(store), stride, tokenizer.config.backbone.total_stride_thw[0]
        ),
    )
    with accelerator.main_process_first():
        writer = TokenStoreWriter(out, header, owner=accelerator.is_main_process)
    num_shards = -(-len(windows) // CLIPS_PER_SHARD)
    todo = [shard for shard in _mine(accelerator, num_shards) if not writer.is_committed(shard)]
    bar = progress("encoding", sum(len(_part(windows, shard)) for shard in todo), "clip")
    for shard in todo:
        part = _part(windows, shard)
        grids = []
        for start in range(0, len(part), batch_size):
            clips = read_windows(store, part[start : start + batch_size]).to(accelerator.device)
            with accelerator.autocast():
                grids.append(tokenizer.encode(clips).cpu().numpy())
            bar.update(len(clips))
        rows = np.array([(window.video, window.start, window.stride) for window in part])
        actions = actions_of_rows(store, tokenizer, rows) if header.num_action_dims else None
        writer.write_shard(shard, np.concatenate(grids), rows, actions)
    bar.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        writer.finish(num_shards, store.videos)
    accelerator.wait_for_everyone()
    return TokenStore(out)


def actions_of_rows(
    store: ClipStore, tokenizer: VideoTokenizer, rows: np.ndarray
) -> Float[np.ndarray, "n t a"]:
    """Return the actions of clips of this tokenizer, each a row of video, first frame, stride."""
    facts, strides = tokenizer.facts, tokenizer.config.backbone.total_stride_thw
    return np.stack(
        [
            actions_of_window(
                store, video, start, facts.num_frames, stride, strides[0], facts.grid_thw[0]
            )
            for video, start, stride in rows.tolist()
        ]
    )


def decode_store(
    accelerator: Accelerator,
    tokens: Path,
    tokenizer_path: Path,
    out: Path,
    split: str | None = None,
    batch_size: int = 16,
) -> ClipStore:
    """Turn every grid of a token store into a clip; see `encode_store`.

    Args:
        tokens: a token store, of real clips or of a prior's samples.
        split: decode this split alone; None for all.

    Raises:
        InputError: the tokens were made by another tokenizer.
    """
    tokenizer = VideoTokenizer.from_pretrained(tokenizer_path, device=accelerator.device)
    store = TokenStore(tokens)
    require_same_tokenizer(tokenizer, store.header.tokenizer_hash, str(tokens))
    rows = [int(row) for row in store.rows(split)]
    plan = {
        "kind": "decoded tokens",
        "tokens": store.content_hash,
        "tokenizer": tokenizer.hash,
        "split": split,
        "batch_size": batch_size,
        "precision": accelerator.mixed_precision,
    }
    with accelerator.main_process_first():
        writer = ClipStoreWriter(
            out, store.header.frame_size_hw, plan, owner=accelerator.is_main_process
        )
    num_shards = -(-len(rows) // CLIPS_PER_SHARD)
    todo = [shard for shard in _mine(accelerator, num_shards) if not writer.is_committed(shard)]
    bar = progress("decoding", sum(len(_part(rows, shard)) for shard in todo), "clip")
    for shard in todo:
        part = _part(rows, shard)
        writer.write_shard(
            shard,
            _decoded_videos(accelerator, tokenizer, store, part, batch_size, bar.update),
        )
    bar.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        writer.finish(num_shards, store.header.classes)
    accelerator.wait_for_everyone()
    return ClipStore(out)


def _decoded_videos(
    accelerator: Accelerator, tokenizer: VideoTokenizer, store: TokenStore, rows, batch_size, tick
) -> Iterator[PreparedVideo]:
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        grids = np.stack([store.read(row) for row in chosen]).astype(np.int64)
        clips = decode_grids(accelerator, tokenizer, torch.from_numpy(grids), batch_size)
        for row, clip in zip(chosen, clips, strict=True):
            source = store.video_of(row)
            _, first, stride = store.window_of(row)
            fps = store.header.fps if source.fps is None else source.fps / stride
            name = f"{source.id}@{first}+{stride}"
            origin = {"video": source.id, "first_frame": first, "stride": stride}
            yield PreparedVideo(
                Video(
                    name,
                    source.label,
                    source.split,
                    source.group,
                    fps=fps,
                    origin=origin,
                ),
                [clip],
                {},
            )
        tick(len(chosen))


def decode_grids(
    accelerator: Accelerator, tokenizer: VideoTokenizer, grids: torch.Tensor, batch_size: int
) -> np.ndarray:
    """Decode integer grids n t h w to uint8 clips n t h w 3, always `batch_size` at a time.

    A short batch is filled up, so that a clip's bytes do not depend on how full its batch was.
    """
    decoded = []
    for start in range(0, len(grids), batch_size):
        part = grids[start : start + batch_size]
        index = torch.arange(batch_size).clamp(max=len(part) - 1)
        with accelerator.autocast():
            video = tokenizer.decode(part[index].to(accelerator.device))
        decoded.append(to_uint8(video)[: len(part)].cpu().numpy())
    return np.concatenate(decoded)


def require_same_tokenizer(tokenizer: VideoTokenizer, tokenizer_hash: str, what: str) -> None:
    """Refuse tokens, or a prior, of another tokenizer.

    Raises:
        InputError: the hashes differ.
    """
    if tokenizer.hash != tokenizer_hash:
        raise InputError(
            f"{what}: belongs to the tokenizer {tokenizer_hash[:12]}…, "
            f"this one is {tokenizer.hash[:12]}…; name the tokenizer it was made with, or make it "
            "again with `video-vq encode` and `video-vq train-prior`"
        )


def require_fit(
    store: ClipStore, samples: Path | None, tokens: TokenStore | None, prior: Prior | None
) -> None:
    """Refuse samples, tokens and a prior of other data before anything is computed.

    Raises:
        InputError: names what does not belong together.
    """
    if samples is not None and ClipStore(samples).frame_size_hw != store.frame_size_hw:
        raise InputError(
            f"{samples}: frames of {ClipStore(samples).frame_size_hw}, the data's are "
            f"{store.frame_size_hw}; score samples of a model trained on this data"
        )
    if tokens is not None and tokens.header.data_hash != store.content_hash:
        raise InputError(
            f"{tokens.path}: was not encoded from {store.path}; "
            f"run `video-vq encode {store.path} --tokenizer … --out …` first"
        )
    if prior is not None and tokens is not None:
        ours = (prior.facts.classes, prior.config.grid_thw, prior.config.num_action_dims)
        header = tokens.header
        theirs = (header.classes, header.grid_thw, header.num_action_dims)
        if ours != theirs:
            raise InputError(
                f"the prior was trained on classes, grid and numbers of actions {ours}, "
                f"{tokens.path} has {theirs}; train a prior on these tokens"
            )


def _windows_of(
    store: ClipStore, split: str, num_frames: int, stride: int, hop: int
) -> list[Window]:
    span = (num_frames - 1) * stride + 1
    if all(store.videos[index].num_frames < span for index in store.indices(split)):
        return []
    return every_window(store, split, num_frames, stride, hop)


def _common_fps(store: ClipStore, stride: int) -> float | None:
    # Of the train split where there is one: a prior samples what it is trained on.
    train = [video for video in store.videos if video.split == "train"]
    rate = commonest_fps(train or store.videos)
    return None if rate is None else rate / stride


def _mine(accelerator: Accelerator, num_shards: int) -> range:
    return range(accelerator.process_index, num_shards, accelerator.num_processes)


def _part(items: list, shard: int) -> list:
    return items[shard * CLIPS_PER_SHARD : (shard + 1) * CLIPS_PER_SHARD]
