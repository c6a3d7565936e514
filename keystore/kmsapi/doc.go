// Package kmsapi speaks the AWS KMS wire protocol over HTTP, so that unmodified
// clients (the AWS command line, SDKs) use and manage the keys of a store.
//
// # Protocol
//
// JSON 1.1, API version 2014-11-01: a POST to "/" whose header X-Amz-Target is
// TrentService.<Operation> and whose body is one JSON object. Blobs are base64, instants
// are seconds since 1970 as numbers. An operation without output answers with an
// empty body. A refusal is {"__type": code, "message": text} with status 400; what is the
// server's fault is a KMSInternalException with status 500. A call is checked
// in this order: who calls, which operation, the JSON, the shapes of its
// parameters (all violations are told at once), grant tokens; all that follows is the
// keystore's.
//
// # Who calls
//
// On TCP a request must carry a Signature Version 4 in its Authorization header,
// made with an access key of a principal. Signed must be the host, the
// date, the target and every other X-Amz-* header, and of course the
// body. Signatures are compared in constant time and are good for five minutes to either side
// of the server's clock; within these a request can be repeated, as at AWS. There
// is no TLS: the listener is meant for loopback and refuses other addresses unless
// told otherwise, policies see aws:SecureTransport = false and the client's address in aws:SourceIp.
//
// On a Unix socket the kernel says which uid calls, and the caller is the
// principal bound to it. Signatures, which clients make even there, are not looked at.
// Who has several principals chooses one by the header X-Kmsfs-Principal.
//
// # Differences from AWS
//
// Symmetric keys only: operations on other kinds of keys and custom key stores
// answer UnsupportedOperationException. Imported material cannot be rotated, and is
// wrapped by RSAES_OAEP. Query-string
// (presigned) signatures and session tokens are refused. Grants are in force at
// once, so grant tokens are verified and change nothing. On-demand rotations are
// done when the answer arrives.
//
// # Limits
//
// A body has at most 1 MiB, headers 32 KiB, a connection 30 s for a request and 2 min between
// two; 128 connections at a time are served on TCP, and on the Unix socket 32 of each user. Beyond, one on TCP that shows no valid
// signature takes its leave for the next.
//
// # What it is not
//
// It decides nothing and keeps nothing: policies, states and audit events are
// package keystore's, access keys package principals'.
package kmsapi
