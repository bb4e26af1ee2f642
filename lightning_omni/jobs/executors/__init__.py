"""What starts the processes of a job; all of them follow one plan."""
