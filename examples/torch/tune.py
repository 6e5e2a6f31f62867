#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""LoRA tuning by several processes whose gradients torch.distributed sums.    torchrun --nproc-per-node 4 tune.py MODEL DATA ADAPTER [STEPS]"""
import sys

import ramet
import torch
import torch.distributed as dist

model, data, adapter = sys.argv[1:4]
dist.init_process_group("gloo")
worker, workers = dist.get_rank(), dist.get_world_size()
tuner = ramet.Tuner(ramet.load(model, runtime=ramet.Runtime(threads=1)), data, window=64, batch=4, micro_batch=1, steps=int(sys.argv[4]) if len(sys.argv) > 4 else 20,
                    learning_rate=1e-3, worker=worker, workers=workers, all_reduce=lambda values: dist.all_reduce(torch.from_numpy(values)))
for event in tuner:
    pass
if worker == 0:
    tuner.adapter().save(adapter)
    print(f"{event.step} steps by {workers} processes, {event.tokens} tokens, loss {event.loss:.9g}")
dist.destroy_process_group()
