"""Damaged JSON, CSV and text files of runs and records: a sentence, and nothing is deleted or overwritten"""
