package keystore

import (
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/keystore/audit"
)

func BenchmarkGenerateDataKey(b *testing.B) {
	w := newWorld(b)
	arn := w.key("console")
	c := viaS3(b, "alice", "s3full")
	b.ReportAllocs()
	for b.Loop() {
		dk, _, _, err := w.GenerateDataKey(c, arn, payContext)
		if err != nil {
			b.Fatal(err)
		}
		dk.Wipe()
	}
}

func BenchmarkDecrypt(b *testing.B) {
	w := newWorld(b)
	arn := w.key("console")
	c := viaS3(b, "alice", "s3full")
	_, wrapped := w.generate(c, arn, payContext)
	b.ReportAllocs()
	for b.Loop() {
		dk, err := w.Decrypt(c, wrapped, payContext)
		if err != nil {
			b.Fatal(err)
		}
		dk.Wipe()
	}
}

func BenchmarkDecryptManaged(b *testing.B) {
	w := newWorld(b)
	c := viaS3(b, "alice", "s3full")
	arn, err := w.ManagedS3Key()
	if err != nil {
		b.Fatal(err)
	}
	_, wrapped := w.generate(c, arn, payContext)
	b.ReportAllocs()
	for b.Loop() {
		dk, err := w.Decrypt(c, wrapped, payContext)
		if err != nil {
			b.Fatal(err)
		}
		dk.Wipe()
	}
}

func BenchmarkReEncrypt(b *testing.B) {
	w := newWorld(b)
	from, to := w.key("console"), w.key("console")
	c := viaS3(b, "alice", "s3full")
	_, wrapped := w.generate(c, from, payContext)
	for b.Loop() {
		if _, _, err := w.ReEncrypt(c, wrapped, payContext, to, payContext); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStoreKey(b *testing.B) {
	w := newWorld(b)
	b.ReportAllocs()
	for b.Loop() {
		dk, _, err := w.GenerateStoreKey(payContext)
		if err != nil {
			b.Fatal(err)
		}
		dk.Wipe()
	}
}

// BenchmarkDecision is the gate without the cryptography: what a re-check of an open handle costs.
func BenchmarkDecision(b *testing.B) {
	w := newWorld(b)
	arn := w.key("console")
	c := viaS3(b, "alice", "s3full")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Check(c, "kms:Decrypt", arn, payContext); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGenerateDataKeyAudited counts everything: the key, and its event sealed, chained and synced (in bunches). The log's keys and
// the collector are as the daemon has them. Use -benchtime 200000x: the processor time is that of the whole process, the log's writer
// included.
func BenchmarkGenerateDataKeyAudited(b *testing.B) {
	defer debug.SetGCPercent(debug.SetGCPercent(300))
	w := newWorld(b)
	arn := w.key("console")
	must(b, w.Close())
	must(b, w.audit.Close())
	w.openAudit(audit.Options{Vault: crypto.Vault{}})
	w.open()
	c := viaS3(b, "alice", "s3full")
	b.ReportAllocs()
	cpu := cpuTime(b)
	b.ResetTimer()
	for range b.N {
		dk, _, _, err := w.GenerateDataKey(c, arn, payContext)
		if err != nil {
			b.Fatal(err)
		}
		dk.Wipe()
	}
	if err := w.audit.Flush(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
