"""SHA-256 of what each recipe ends with: the final weights, and all images that it recovered.

    python .ci/bits.py --out FILE [--budgets smoke,demo] [--seeds 0,1] [--recipes free,purer]     record
    python .ci/bits.py --against FILE                                                             compare with a record

A change that is meant to move code and no number is proved by equal lines before and after it. Sums differ in the last
digit between processors and versions of PyTorch, so a record is compared on the machine that made it.
"""
import argparse, hashlib, json, os, sys, tempfile, time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch

from dfml_nb.core import versions
from dfml_nb.data import load_data
from dfml_nb.recipes import DataFreeMetaLearner
from dfml_nb.table import POOL_BUDGETS, RECIPES

try: from dfml_nb.pool.pretrain import pretrain_pool
except ImportError: from dfml_nb.pretrain import pretrain_pool


def digest(tensors):
    "One checksum of named tensors, whatever their order."
    h = hashlib.sha256()
    for name in sorted(tensors, key=str):
        t = tensors[name].detach().cpu().contiguous()
        h.update(f"{name} {t.dtype} {tuple(t.shape)}".encode() + t.numpy().tobytes())
    return h.hexdigest()[:16]


def recovered(trainer):
    "The images of each class that a finished run remembers; empty for methods that recover none."
    for name in ("store", "data", "memory"):
        store = getattr(trainer, name, None)
        images = getattr(store, "rings", None) or getattr(store, "images", None)
        if images and isinstance(images, dict): return images
    return {}


def bits(recipe, budget, seed, pool):
    "Checksums of one run."
    learner = DataFreeMetaLearner(recipe, budget, 1, seed, "cpu").fit(pool)
    images = recovered(learner.trainer)
    return dict(weights=digest(learner.model.state_dict()), recovered=digest(images) if images else None)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out"); p.add_argument("--against"); p.add_argument("--budgets", default="smoke,demo")
    p.add_argument("--seeds", default="0,1"); p.add_argument("--recipes", default=",".join(RECIPES))
    a = p.parse_args()
    torch.set_num_threads(1)
    old = json.loads(Path(a.against).read_text()) if a.against else None
    found, wrong, pools = {}, [], tempfile.TemporaryDirectory(prefix="dfml_nb_")
    for budget in a.budgets.split(","):
        pool = pretrain_pool(load_data("glyphs"), Path(pools.name)/budget, way=5, seed=0, device="cpu", **POOL_BUDGETS[budget])
        for recipe in a.recipes.split(","):
            for seed in map(int, a.seeds.split(",")):
                start, name = time.perf_counter(), f"{recipe} {budget} seed {seed}"
                found[name] = bits(recipe, budget, seed, pool)
                same = old and old["bits"].get(name) == found[name]
                if old and not same: wrong.append(name)
                print(name, found[name], "" if not old else "equal" if same else f"WAS {old['bits'].get(name)}", f"{time.perf_counter() - start:.0f} s", flush=True)
                if a.out: Path(a.out).write_text(json.dumps(dict(versions=versions(), bits=found), indent=1) + "\n")
    if old: print(f"{len(found) - len(wrong)} equal, {len(wrong)} different: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__": sys.exit(main())
