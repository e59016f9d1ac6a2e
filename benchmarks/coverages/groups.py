"""Simulated images in groups"""
import numpy as np

KINDS = {
    'groups of 5': 5,
    'groups of 20': 20,
    'groups of 1 to 8': None,
    'log-normal groups': None,
    'one giant group': None}


def draw_sizes(kind, k, rng):
    "Number of images in each of k groups"
    if KINDS[kind]: return np.full(k, KINDS[kind])
    if kind == 'groups of 1 to 8': return rng.integers(1, 9, k)
    if kind == 'log-normal groups': return np.maximum(1, np.round(5*np.exp(rng.normal(0, 1, k)))).astype(int)
    sizes = rng.integers(1, 9, k)
    sizes[0] = round(.7/.3*sizes[1:].sum())  # 70 % of the images
    return sizes


def draw_hits(sizes, p, icc, rng):
    "Hits in each group: beta-binomial with this mean and intraclass correlation; p may differ from group to group"
    p = np.broadcast_to(np.asarray(p, float), len(sizes))
    if icc == 0: return rng.binomial(sizes, p)
    strength = 1/icc - 1
    inside = np.clip(p, 1e-9, 1 - 1e-9)
    shares = np.where(p == inside, rng.beta(inside*strength, (1 - inside)*strength), p)
    return rng.binomial(sizes, shares)


def spread(sizes, hits):
    "`(hit, units)` of each image"
    units = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(units)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place < np.repeat(hits, sizes), units
