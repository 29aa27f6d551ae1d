"""What the user sees of a job. Listens to jobs; nothing below imports it."""
