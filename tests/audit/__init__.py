"""The audit trail: what is in it, what may not be, and that no change of it goes unnoticed."""
