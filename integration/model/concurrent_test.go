package model

func worker(role, dir string) int { return 0 }
