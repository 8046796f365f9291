"""People who judge: questions on disk, a page where people answer them, and their choices, of which none is lost.

    questions.jsonl    what is asked, one line a question or a closed one; whoever has pictures appends, also
                       while the page is open
    pictures/          the files that are shown, named after their contents
    choices.jsonl      what people chose, one line a choice or a withdrawn one; written by the page's server alone
    batches.jsonl      of a run that waits for people: see rewards.people.live

Nothing here but `reward.py` needs torch, and nothing Ray: who asks people writes with `questions.offer` and reads with
`choices.read`.
"""
