// SPDX-License-Identifier: Apache-2.0
// What a Java machine leans on: compiled code that faults on purpose (null, division by zero, stack overflow), safepoints, garbage
// collection among threads, intrinsics (AES, SHA, big integers, vectors), floating point. Each line is the same on every machine.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.math.BigInteger;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.LongStream;
import java.util.zip.Adler32;
import java.util.zip.CRC32;
import java.util.zip.GZIPInputStream;
import java.util.zip.GZIPOutputStream;
import javax.crypto.Cipher;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;

public class Check {
	static long seed = 12345;

	static long next() {
		seed = seed * 6364136223846793005L + 1442695040888963407L;
		return seed ^ (seed >>> 29);
	}

	static String hex(byte[] b) {
		return String.format("%064x", new BigInteger(1, b)).substring(0, 16);
	}

	static byte[] sha(byte[] b) throws Exception {
		return MessageDigest.getInstance("SHA-256").digest(b);
	}

	static String floats() {
		CRC32 crc = new CRC32();
		double sum = 0;
		for (int i = 0; i < 60000; i++) {
			double d = Double.longBitsToDouble(next());
			String s = Double.toString(d) + " " + (float) d;
			if (!Double.isNaN(d) && Double.parseDouble(Double.toString(d)) != d)
				return "differs: " + s;
			crc.update(s.getBytes());
			double x = (next() >> 40) / 1000.0;
			sum += StrictMath.sin(x) * StrictMath.exp(-Math.abs(x) / 1e6) + Math.sqrt(Math.abs(x)) + Math.fma(x, 0.1, 0.3) + x % 0.7;
		}
		return Long.toHexString(crc.getValue()) + String.format(" %.9e %a", sum, (float) sum);
	}

	static int depth;

	static int deeper(int n) {
		depth++;
		return deeper(n + 1) + n;
	}

	static int length(String s) {
		return s.length();
	}

	static int divide(int a, int b) {
		return a / b;
	}

	static String faults() {
		int nulls = 0, divisions = 0, bounds = 0, casts = 0, stacks = 0;
		int[] array = new int[10];
		for (int i = 0; i < 200000; i++) {
			try {
				nulls += length(i % 1000 == 0 ? null : "x") - 1;
			} catch (NullPointerException e) {
				nulls++;
			}
			try {
				divisions += divide(0, i % 1000);
			} catch (ArithmeticException e) {
				divisions++;
			}
			try {
				bounds += array[i % 11];
			} catch (ArrayIndexOutOfBoundsException e) {
				bounds++;
			}
			try {
				Object o = i % 5000 == 0 ? (Object) "s" : (Object) i;
				casts += (Integer) o == i ? 0 : 1000000;
			} catch (ClassCastException e) {
				casts++;
			}
		}
		for (int i = 0; i < 20; i++) {
			depth = 0;
			try {
				deeper(0);
			} catch (StackOverflowError e) {
				stacks += depth > 1000 ? 1 : 0;
			}
		}
		return nulls + " " + divisions + " " + bounds + " " + casts + " " + stacks;
	}

	static class Tree {
		Tree left, right;

		Tree(int n) {
			if (n > 0) {
				left = new Tree(n - 1);
				right = new Tree(n - 1);
			}
		}

		int count() {
			return left == null ? 1 : 1 + left.count() + right.count();
		}
	}

	static String garbage() throws Exception {
		ExecutorService pool = Executors.newFixedThreadPool(4);
		List<Future<Long>> futures = new ArrayList<>();
		Tree kept = new Tree(14);
		for (int t = 0; t < 4; t++) {
			final int number = t;
			futures.add(pool.submit(() -> {
				long total = 0;
				Map<Integer, String> map = new HashMap<>();
				for (int i = 0; i < 60; i++) {
					total += new Tree(11).count();
					for (int k = 0; k < 500; k++)
						map.put(k, "value " + (k * number + i));
					if (i % 20 == 0)
						System.gc();
				}
				for (String s : map.values())
					total = total * 31 + s.hashCode();
				return total;
			}));
		}
		StringBuilder s = new StringBuilder();
		for (Future<Long> f : futures)
			s.append(f.get()).append(' ');
		pool.shutdown();
		return s.append(kept.count()).toString();
	}

	static volatile boolean stop;

	/* Loops without a call reach a safepoint only because the compiler put a poll there. */
	static String safepoints() throws Exception {
		long[] sums = new long[3];
		Thread[] threads = new Thread[3];
		for (int t = 0; t < 3; t++) {
			final int number = t;
			threads[t] = new Thread(() -> {
				long s = 0, n = 0;
				while (!stop) {
					for (int i = 0; i < 1000; i++)
						s += i ^ n;
					n++;
				}
				sums[number] = n > 0 ? 1 : 0;
			});
			threads[t].start();
		}
		for (int i = 0; i < 10; i++) {
			Thread.sleep(20);
			System.gc();
			Thread.getAllStackTraces();
		}
		stop = true;
		for (Thread t : threads)
			t.join();
		return Long.toString(sums[0] + sums[1] + sums[2]);
	}

	static int shared;
	static final Object lock = new Object();

	static String threads() throws Exception {
		AtomicLong atomic = new AtomicLong();
		ConcurrentHashMap<Integer, Integer> map = new ConcurrentHashMap<>();
		CyclicBarrier barrier = new CyclicBarrier(8);
		SynchronousQueue<Integer> queue = new SynchronousQueue<>();
		Thread[] all = new Thread[8];
		for (int t = 0; t < 8; t++) {
			final int number = t;
			all[t] = new Thread(() -> {
				try {
					barrier.await();
					for (int i = 0; i < 20000; i++) {
						synchronized (lock) {
							shared++;
						}
						atomic.addAndGet(i);
						map.merge(i % 100, 1, Integer::sum);
					}
					for (int i = 0; i < 200; i++) {
						if (number % 2 == 0)
							queue.put(i);
						else
							atomic.addAndGet(queue.take());
					}
					barrier.await();
				} catch (Exception e) {
					throw new RuntimeException(e);
				}
			});
			all[t].start();
		}
		for (Thread t : all)
			t.join();
		int sum = map.values().stream().mapToInt(Integer::intValue).sum();
		long parallel = LongStream.rangeClosed(1, 2000000).parallel().map(x -> x * x % 1000003).sum();
		return shared + " " + atomic.get() + " " + sum + " " + parallel;
	}

	static String zip() throws Exception {
		StringBuilder text = new StringBuilder();
		for (int i = 0; i < 40000; i++)
			text.append((char) ('a' + (next() >>> 60))).append(next() % 97);
		byte[] plain = text.toString().getBytes();
		ByteArrayOutputStream out = new ByteArrayOutputStream();
		try (GZIPOutputStream gz = new GZIPOutputStream(out)) {
			gz.write(plain);
		}
		byte[] back = new GZIPInputStream(new ByteArrayInputStream(out.toByteArray())).readAllBytes();
		CRC32 crc = new CRC32();
		Adler32 adler = new Adler32();
		crc.update(plain);
		adler.update(plain);
		return Arrays.equals(plain, back) + " " + out.size() + " " + crc.getValue() + " " + adler.getValue();
	}

	static String crypto() throws Exception {
		byte[] key = new byte[16], iv = new byte[12], data = new byte[1 << 18];
		for (int i = 0; i < data.length; i++)
			data[i] = (byte) next();
		Cipher c = Cipher.getInstance("AES/GCM/NoPadding");
		c.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(key, "AES"), new GCMParameterSpec(128, iv));
		byte[] secret = c.doFinal(data);
		c.init(Cipher.DECRYPT_MODE, new SecretKeySpec(key, "AES"), new GCMParameterSpec(128, iv));
		boolean same = Arrays.equals(c.doFinal(secret), data);
		byte[] digest = data;
		for (int i = 0; i < 40; i++)
			digest = sha(i % 2 == 0 ? digest : secret);
		BigInteger p = BigInteger.TWO.pow(1279).subtract(BigInteger.ONE), b = new BigInteger(1, digest), power = b.modPow(p.shiftRight(1), p);
		return same + " " + hex(sha(secret)) + " " + hex(digest) + " " + hex(sha(power.toByteArray())) + " " + p.isProbablePrime(20);
	}

	static String vectors() {
		int[] a = new int[10007], b = new int[10007];
		double[] x = new double[10007], y = new double[10007];
		for (int i = 0; i < a.length; i++) {
			a[i] = (int) next();
			x[i] = (next() >> 44) / 16.0;
		}
		for (int round = 0; round < 3000; round++)
			for (int i = 0; i < a.length; i++) {
				b[i] += a[i] * 3 ^ round;
				y[i] = y[i] * 0.5 + x[i];
			}
		return Arrays.hashCode(b) + " " + Arrays.hashCode(y) + " " + Arrays.stream(x).map(Math::abs).max().getAsDouble();
	}

	interface Shape {
		int area(int n);
	}

	/* A call site with one target, then two, then many: compiled, thrown away, compiled. */
	static String shapes() {
		Shape[] shapes = {n -> n, n -> n * n, n -> n << 1, n -> -n, n -> n ^ 0x55};
		TreeMap<String, Integer> words = new TreeMap<>();
		long total = 0;
		for (int kinds = 1; kinds <= shapes.length; kinds++)
			for (int i = 0; i < 300000; i++)
				total += shapes[i % kinds].area(i % 1000);
		for (int i = 0; i < 50000; i++) {
			String w = switch ((int) (next() >>> 61)) {
				case 0 -> "zero";
				case 1, 2 -> "few";
				default -> "many" + i % 10;
			};
			words.merge(w, 1, Integer::sum);
		}
		return total + " " + words.hashCode();
	}

	public static void main(String[] args) throws Exception {
		System.out.println("floats " + floats());
		System.out.println("faults " + faults());
		System.out.println("garbage " + garbage());
		System.out.println("safepoints " + safepoints());
		System.out.println("threads " + threads());
		System.out.println("zip " + zip());
		System.out.println("crypto " + crypto());
		System.out.println("vectors " + vectors());
		System.out.println("shapes " + shapes());
	}
}
