"""Everything under data/ that is made by a program: the programs.

Run from the repository root, in this order:

    python -m data.build.word_problems     data/word_problems/{train,test}.jsonl
    python -m data.build.support_desk      data/support_desk/{train,test}.{jsonl,csv}
    python -m data.build.pretrain          data/starter/ (about an hour on two cores)

All text is written by this project: `lexicon` holds the words, `scenarios` the small situations with numbers in
them, `corpus` turns both into English to pre-train on.
"""
