"""People who judge: questions on disk, a page where people answer them, and their choices, of which none is lost.

    questions.jsonl    what is asked, one line a question; whoever has pictures appends, also while the page is open
    pictures/          the files that are shown, named after their contents
    choices.jsonl      what people chose, one line a choice or a withdrawn one; written by the page's server alone

Nothing here needs torch or Ray: a run that asks people writes with `questions.offer` and reads with `choices.read`.
"""
