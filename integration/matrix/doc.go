// Package matrix holds one test: every principal tries every operation on files under keys in every state, on mounts, and meets
// exactly what the rules say, errno included.
//
// The expectation comes from a model of its own (rules_test.go): sixteen principals with their statements as data, from which the
// policy documents are written as well, and the two gates in some forty lines. It never asks the program's evaluator. The table of
// operations (ops_test.go) is the table of the manual, row by row: what the operation does on a mount, and which rights it needs in
// which order. The observation is a system call by a child process on a mount of the principal.
//
// A refusal must change nothing: the file is compared before and after.
package matrix
