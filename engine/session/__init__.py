"""One process, one base, many clients: prompts are answered between the micro-batches of a training, or with none.

server (a thread: sockets, slow clients) -> tickets -> owner (the one thread that runs the model) -> replies
"""
