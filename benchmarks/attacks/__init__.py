"""Attacks on files, archives, servers, caches, weights, processes, commands and names: one module a group"""
