// SPDX-License-Identifier: Apache-2.0

// What Go's runtime leans on: goroutines that are preempted by signals, faults that become panics, garbage collection among threads,
// assembly in its libraries. Each line is the same on every machine.
package main

import (
	"bytes"
	"compress/flate"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"math"
	"math/big"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

var seed uint64 = 12345

func next() uint64 {
	seed = seed*6364136223846793005 + 1442695040888963407
	return seed ^ seed>>29
}

func floats() string {
	crc := crc32.NewIEEE()
	sum := 0.0
	for i := 0; i < 100000; i++ {
		f := math.Float64frombits(next())
		s := strconv.FormatFloat(f, 'g', -1, 64)
		if back, _ := strconv.ParseFloat(s, 64); back != f && f == f {
			return "differs: " + s
		}
		crc.Write([]byte(s))
		x := float64(int64(next())>>40) / 1000
		sum += math.Sin(x)*math.Exp(-math.Abs(x)/1e6) + math.Sqrt(math.Abs(x)) + math.FMA(x, 0.1, 0.3) + math.Mod(x, 0.7)
	}
	return fmt.Sprintf("%08x %.6e", crc.Sum32(), sum)
}

type node struct {
	left, right *node
}

func tree(n int) *node {
	if n == 0 {
		return &node{}
	}
	return &node{tree(n - 1), tree(n - 1)}
}

func (n *node) count() int {
	if n.left == nil {
		return 1
	}
	return 1 + n.left.count() + n.right.count()
}

func garbage() string {
	var wait sync.WaitGroup
	var total int64
	debug.SetGCPercent(20)
	kept := tree(14)
	for g := 0; g < 8; g++ {
		wait.Add(1)
		go func(g int) {
			defer wait.Done()
			m := map[string]int{}
			for i := 0; i < 60; i++ {
				atomic.AddInt64(&total, int64(tree(10).count()))
				for k := 0; k < 300; k++ {
					m[strconv.Itoa(k*g)] += i
				}
			}
			atomic.AddInt64(&total, int64(len(m)+m["0"]))
		}(g)
	}
	wait.Wait()
	return fmt.Sprint(total, kept.count())
}

func recovered(f func()) (what string) {
	defer func() { what = fmt.Sprint(recover()) }()
	f()
	return
}

func faults() string {
	var null *node
	var array []int
	zero, counts := 0, map[string]int{}
	for i := 0; i < 2000; i++ {
		counts[recovered(func() { null.left = nil })]++
		counts[recovered(func() { _ = 1 / zero })]++
		counts[recovered(func() { array[i] = 1 })]++
		counts[recovered(func() { var x interface{} = i; _ = x.(string) })]++
	}
	lines := []string{}
	for k, v := range counts {
		lines = append(lines, fmt.Sprint(v, " ", len(k)))
	}
	sort.Strings(lines)
	return fmt.Sprint(len(lines), lines[0])
}

// Loops without a call give their thread away only when a signal interrupts them.
func preemption() string {
	var stop int32
	var loops int64
	var wait sync.WaitGroup
	runtime.GOMAXPROCS(2)
	for g := 0; g < 6; g++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			n := int64(0)
			for atomic.LoadInt32(&stop) == 0 {
				n++
			}
			if n > 0 {
				atomic.AddInt64(&loops, 1)
			}
		}()
	}
	ticks := 0
	for i := 0; i < 20; i++ {
		time.Sleep(5 * time.Millisecond)
		runtime.GC()
		ticks++
	}
	time.Sleep(200 * time.Millisecond)
	atomic.StoreInt32(&stop, 1)
	wait.Wait()
	runtime.GOMAXPROCS(runtime.NumCPU())
	return fmt.Sprint(ticks, " ", loops)
}

func channels() string {
	const stages = 50
	first := make(chan int)
	from := first
	for s := 0; s < stages; s++ {
		to := make(chan int, s%3)
		go func(from, to chan int, s int) {
			for v := range from {
				to <- v*3 + s
			}
			close(to)
		}(from, to, s)
		from = to
	}
	go func() {
		for i := 0; i < 2000; i++ {
			first <- i
		}
		close(first)
	}()
	sum := 0
	timeout := time.After(100 * time.Second)
	for {
		select {
		case v, more := <-from:
			if !more {
				return fmt.Sprint(sum)
			}
			sum = sum*31 + v
		case <-timeout:
			return "timeout"
		}
	}
}

func packing() string {
	plain := make([]byte, 400000)
	for i := range plain {
		plain[i] = byte('a' + next()>>60)
	}
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, 9)
	w.Write(plain)
	w.Close()
	size := out.Len()
	var back bytes.Buffer
	back.ReadFrom(flate.NewReader(&out))
	block, _ := aes.NewCipher(make([]byte, 16))
	gcm, _ := cipher.NewGCM(block)
	secret := gcm.Seal(nil, make([]byte, 12), plain, nil)
	open, err := gcm.Open(nil, make([]byte, 12), secret, nil)
	return fmt.Sprintf("%v %d %v %v %x", bytes.Equal(plain, back.Bytes()), size, bytes.Equal(open, plain), err, sha256.Sum256(secret))
}

func integers() string {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 1279), big.NewInt(1))
	f := new(big.Int).MulRange(1, 2000)
	return fmt.Sprint(p.ProbablyPrime(20), " ", new(big.Int).Mod(f, big.NewInt(1000003*1000033)), " ", len(f.String()), " ",
		new(big.Int).Exp(f, big.NewInt(65537), p).String()[:20])
}

func main() {
	fmt.Println("floats", floats())
	fmt.Println("garbage", garbage())
	fmt.Println("faults", faults())
	fmt.Println("preemption", preemption())
	fmt.Println("channels", channels())
	fmt.Println("packing", packing())
	fmt.Println("integers", integers())
}
