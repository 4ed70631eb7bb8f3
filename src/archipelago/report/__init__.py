"""One run as a page that a committee can read: findings in, a self-contained document out."""
