"""A base model: loaded in 4 bits or whole, proved on its architecture, with adapters that are switched in place.

loading -> loaded (what runs a flat batch), proof, attention, fusing, switching; loss, products, kernels and memory serve those
who run it; lanes put several adapters into one batch;
layout and nf4 read the base's files without loading it
"""
