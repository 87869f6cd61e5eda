"""Search under budgets. Pure Python: it is handed functions that score, cost and rank.

Every search is a pure function of its seed and of the answers of those functions. A caller that
keeps the answers on disk therefore resumes a killed search by running it again.
"""
