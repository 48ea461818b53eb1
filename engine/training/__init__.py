"""An adapter on a loaded base, and the loop that trains it.

fit (may it be put there) -> lora, loftq (put there) -> order, optimizer -> loop -> checkpoint
"""
