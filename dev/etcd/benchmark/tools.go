//go:build tools

// Package benchmark pins etcd's own load generator, which is built from its module.
package benchmark

import _ "go.etcd.io/etcd/v3/tools/benchmark"
