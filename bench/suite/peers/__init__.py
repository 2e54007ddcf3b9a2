"""Systems that take the exchange's orders, each in its own way; `base` says what all of them do."""
