"""What is wrong with a row as it is read: the column `mark` of the rows of a log."""

FINE, NOT_UTF8, RAGGED, BROKEN, UNEQUAL, NOT_JSON, UNFIT = range(7)
