"""What the columns of a dataset are usually called, by what they hold; names are compared without regard to case.

Goes to: `rows.detect`, which finds the shape of a dataset by them, and `transcripts`, which adds a row to one.
"""

from __future__ import annotations

MESSAGES = ("messages", "conversations", "conversation", "chat")
PROMPTS = ("prompt", "question", "instruction", "query", "input", "problem", "source", "user", "human")
COMPLETIONS = ("completion", "answer", "response", "output", "solution", "target", "reply", "assistant")
TEXTS = ("text", "content")
SYSTEMS = ("system", "system_prompt")
