#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# What an interpreter with a long history does in a day; each line is the same on every machine with 64-bit integers.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use Math::BigInt;
use POSIX qw(floor fmod);

my $seed = 12345;

sub next_number {
	$seed = ($seed * 1103515245 + 12345) & 0x7fffffff;
	return $seed;
}

sub floats {
	my $text = '';
	for my $i (1 .. 30000) {
		my $x = next_number() / (1 + next_number() % 1000);
		$text .= sprintf("%.17g %e %d ", $x, sqrt($x), floor(fmod($x, 97)));
		die "differs: $x" unless sprintf('%.17g', $x) == $x;
	}
	return sha256_hex($text);
}

sub expressions {
	my $text = join ' ', map { my $n = next_number(); sprintf('%c%s%x', 97 + $n % 26, 'ab' x ($n % 5), $n) } 1 .. 20000;
	my %count;
	$count{$1}++ while $text =~ /\b([a-z])(?:ab)+(?=[0-9a-f]{3,}\b)/g;
	(my $swapped = $text) =~ s/(\w)(\w+)/$2$1/g;
	my $nested = qr/(\((?:[^()]++|(?1))*\))/;
	my $depth = '(' x 200 . 'x' . ')' x 200;
	my $unicode = join '', map { chr(0x400 + $_ % 64) } 1 .. 500;
	return join ' ', scalar(keys %count), sha256_hex(join ',', map { "$_$count{$_}" } sort keys %count), sha256_hex($swapped),
		$depth =~ /^$nested$/ ? 'nested' : 'flat', length(uc $unicode), $unicode =~ tr/\x{410}-\x{42f}//;
}

sub integers {
	my $factorial = Math::BigInt->new(400)->bfac();
	my $power = Math::BigInt->new(3)->bmodpow(Math::BigInt->new(2)->bpow(521), Math::BigInt->new(2)->bpow(607)->bsub(1));
	return sha256_hex("$factorial $power") . ' ' . length($factorial->bstr());
}

sub sorting {
	my @numbers = map { next_number() } 1 .. 60000;
	my @sorted = sort { $a <=> $b || $b cmp $a } @numbers;
	my @text = sort map { sprintf '%o', $_ } @numbers;
	my $packed = pack 'N*', @sorted;
	my ($sum, $check) = (0, unpack('%32N*', $packed));
	$sum = ($sum * 31 + $_) % 1000003 for unpack 'V*', $packed;
	return "$sum $check " . sha256_hex("@text");
}

sub processes {
	my $total = 0;
	for my $n (1 .. 20) {
		my $pid = open(my $child, '-|') // die "fork: $!";
		if (!$pid) {
			my $s = 0;
			$s += $_ * $n for 1 .. 1000;
			print $s;
			exit $n;
		}
		$total += <$child>;
		close $child;
		$total += $? >> 8;
	}
	my $signals = 0;
	local $SIG{USR1} = sub { $signals++ };
	kill USR1 => $$ for 1 .. 50;
	local $SIG{ALRM} = sub { die "alarm\n" };
	eval { alarm 1; 1 while 1 };
	return "$total $signals $@";
}

sub closures {
	my @counters = map { my $n = $_; sub { $n += shift } } 1 .. 100;
	my %objects;
	for my $i (1 .. 50000) {
		my $v = $counters[$i % 100]->($i);
		$objects{$v % 5003} = bless {value => $v, list => [1 .. $i % 7]}, 'Thing';
	}
	my ($sum, $n) = (0, 0);
	$sum += $_->{value} + @{$_->{list}} for values %objects;
	my $ackermann;
	no warnings 'recursion';
	$ackermann = sub { my ($m, $k) = @_; $m == 0 ? $k + 1 : $k == 0 ? $ackermann->($m - 1, 1) : $ackermann->($m - 1, $ackermann->($m, $k - 1)) };
	return "$sum " . scalar(keys %objects) . ' ' . $ackermann->(2, 60);
}

print "floats ", floats(), "\n";
print "expressions ", expressions(), "\n";
print "integers ", integers(), "\n";
print "sorting ", sorting(), "\n";
print "processes ", processes();
print "closures ", closures(), "\n";
