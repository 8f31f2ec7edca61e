#!/usr/bin/env perl
# Serves a folder of files over HTTP/1.1. It needs nothing but the Perl that Debian and Ubuntu always have, so a
# static site runs where no language is installed.
#
#   server.pl APP         serves on $PORT with $WEB_CONCURRENCY processes (2)
#   server.pl APP --root  prints the folder that would be served, or says what is wrong with static.json
use strict;
use warnings;
use Errno qw(EAGAIN EINTR EWOULDBLOCK);
use Fcntl;
use IO::Socket::INET;
use POSIX ();
use Socket qw(IPPROTO_TCP TCP_NODELAY);

use constant { HEAD_LIMIT => 16_384, CHUNK => 131_072, IDLE => 75, CONNECTIONS => 1000 };

my ($app, $mode) = @ARGV;
my $site = -f "$app/static.json" ? parse_json(slurp("$app/static.json")) : {};
die "it should be an object\n" if ref $site ne 'HASH';
my $root = folder();
if (($mode // '') eq '--root') { print "$root\n"; exit }
$root = $root eq '.' ? $app : "$app/$root";

# Names that lie beside the pages when the app's own folder is the site.
my %private = map { $_ => 1 } qw(static.json app.json Procfile);
my %type = (
    html => 'text/html', htm => 'text/html', css => 'text/css', js => 'text/javascript', mjs => 'text/javascript',
    txt => 'text/plain', md => 'text/markdown', csv => 'text/csv', ics => 'text/calendar', vtt => 'text/vtt',
    json => 'application/json', map => 'application/json', webmanifest => 'application/manifest+json',
    xml => 'application/xml', rss => 'application/rss+xml', atom => 'application/atom+xml', svg => 'image/svg+xml',
    png => 'image/png', jpg => 'image/jpeg', jpeg => 'image/jpeg', gif => 'image/gif', webp => 'image/webp',
    avif => 'image/avif', ico => 'image/x-icon', bmp => 'image/bmp', woff => 'font/woff', woff2 => 'font/woff2',
    ttf => 'font/ttf', otf => 'font/otf', wasm => 'application/wasm', pdf => 'application/pdf', zip => 'application/zip',
    gz => 'application/gzip', mp3 => 'audio/mpeg', ogg => 'audio/ogg', wav => 'audio/wav', mp4 => 'video/mp4',
    webm => 'video/webm', mov => 'video/quicktime',
);
my %reason = (200 => 'OK', 206 => 'Partial Content', 301 => 'Moved Permanently', 302 => 'Found', 303 => 'See Other',
    304 => 'Not Modified', 307 => 'Temporary Redirect', 308 => 'Permanent Redirect', 400 => 'Bad Request',
    404 => 'Not Found', 405 => 'Method Not Allowed', 408 => 'Request Timeout', 416 => 'Range Not Satisfiable',
    431 => 'Request Header Fields Too Large');

# What changed is told by content: times say nothing in a slug. `<hash>  <path>`, written by bin/compile.
my %etag;
if (open my $file, '<', "$app/.heroku/static/etags") {
    while (<$file>) { $etag{"$root/$2"} = $1 if m{^([0-9a-f]{32})[0-9a-f]*  \./(.*)\n} }
}

sub slurp { my $path = shift; open my $file, '<', $path or die "$path: $!\n"; local $/; return <$file> }

# parse_json TEXT: this Perl has no reader of its own.
sub parse_json {
    local $_ = shift;
    my $value;
    my $string = sub {
        my $text = shift;
        $text =~ s{\\(?:u([0-9a-fA-F]{4})|(.))}{defined $1 ? do { my $c = chr hex $1; utf8::encode($c); $c } : ({ n => "\n", t => "\t", r => "\r", b => "\b", f => "\f" }->{$2} // $2)}ges;
        return $text;
    };
    $value = sub {
        /\G\s*/gc;
        return $string->($1) if /\G"((?:[^"\\]|\\.)*)"/gcs;
        return $1 if /\G(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)/gc;
        return $1 eq 'true' ? 1 : 0 if /\G(true|false|null)\b/gc;
        if (/\G\[/gc) {
            my @list;
            return \@list if /\G\s*\]/gc;
            do { push @list, $value->() } while /\G\s*,/gc;
            return \@list if /\G\s*\]/gc;
        } elsif (/\G\{/gc) {
            my %map;
            return \%map if /\G\s*\}/gc;
            do {
                /\G\s*"((?:[^"\\]|\\.)*)"\s*:/gcs or die 'a name and a colon are missing at character ' . (pos // 0) . "\n";
                my $key = $string->($1);
                $map{$key} = $value->();
            } while /\G\s*,/gc;
            return \%map if /\G\s*\}/gc;
        }
        die 'it is not JSON at character ' . (pos // 0) . "\n";
    };
    my $result = $value->();
    /\G\s*\z/gc or die 'there is more after its end, at character ' . (pos // 0) . "\n";
    return $result;
}

# folder: the site's folder inside the app.
sub folder {
    if (defined(my $wanted = $site->{root})) {
        $wanted =~ s{^\./|/+$}{}g;
        $wanted = '.' if $wanted eq '';
        die "`root` must be a folder inside the app\n" if $wanted =~ m{^/|(?:^|/)\.\.(?:/|$)};
        die "`root` names $wanted, and there is no such folder\n" unless -d "$app/$wanted";
        return $wanted;
    }
    for my $known ('public_html', '.', 'public', 'dist', 'build', '_site') {
        return $known if -f "$app/$known/index.html";
    }
    die "no index.html was found, and it names no `root`\n";
}

# pattern TEXT: `/assets/**` and the like of static.json as an expression; `*` stays within a folder.
sub pattern {
    my $text = quotemeta shift;
    $text =~ s{\\\*\\\*}{.*}g;
    $text =~ s{\\\*}{[^/]*}g;
    return qr{^$text$};
}
my @headers = map { [pattern($_), $site->{headers}{$_}] } sort keys %{ $site->{headers} || {} };
my @routes = map { [pattern($_), $site->{routes}{$_}] } sort { length $b <=> length $a } keys %{ $site->{routes} || {} };
my $missing = $site->{error_page} // '404.html';

# locate PATH: (file) to serve, or (undef, location) to go to; neither when there is nothing.
sub locate {
    my $path = shift;
    my @names = grep { length } split m{/}, $path;
    for my $name (@names) { return if $name =~ /^\./ && $name ne '.well-known' }
    return if @names && $root eq $app && $private{ $names[0] };
    my $file = join '/', $root, @names;
    if (-d $file) {
        return (undef, '/' . join('/', map { escape($_) } @names) . '/') if @names && $path !~ m{/$};
        return "$file/index.html" if -f "$file/index.html";
    } elsif ($path !~ m{/$}) {
        return $file if -f $file;
        return "$file.html" if -f "$file.html";
    }
    for my $route (@routes) {
        return "$root/$route->[1]" if $path =~ $route->[0] && -f "$root/$route->[1]";
    }
    return;
}

sub escape { my $text = shift; $text =~ s{([^A-Za-z0-9._~!\$&'()*+,;=:@-])}{sprintf '%%%02X', ord $1}ge; return $text }

# answer CONNECTION: takes one request off its input and puts the answer on its output; false while it is incomplete.
sub answer {
    my $c = shift;
    $c->{in} =~ s/^(?:\r?\n)+//;
    my $end = $c->{in} =~ /\r?\n\r?\n/ ? $+[0] : 0;
    if (!$end) {
        return plain($c, 431, close => 1) if length $c->{in} > HEAD_LIMIT;
        return 0;
    }
    my ($line, @lines) = split /\r?\n/, substr $c->{in}, 0, $end, '';
    my ($method, $target, $version) = $line =~ m{^([A-Z]+) (\S+) HTTP/1\.([01])$} or return plain($c, 400, close => 1);
    my %given;
    for (@lines) { $given{ lc $1 } = $2 if /^([^\s:]+):\s*(.*?)\s*$/ }
    my $connection = lc($given{connection} // '');
    $c->{close} = 1 if $connection =~ /\bclose\b/ || ($version == 0 && $connection !~ /keep-alive/);
    # A body is never wanted; one that comes can't be told from the next request without reading it.
    $c->{close} = 1 if $given{'transfer-encoding'} || $given{'content-length'};
    $c->{head} = $method eq 'HEAD';
    return plain($c, 405, headers => { Allow => 'GET, HEAD' }) unless $method eq 'GET' || $c->{head};

    $target =~ s{^https?://[^/]*}{}i;
    my ($path, $query) = split /\?/, $target, 2;
    $path =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ge;
    return plain($c, 400) if $path !~ m{^/} || $path =~ /[\x00-\x1f\x7f\\]/ || $path =~ m{(?:^|/)\.\.(?:/|$)};
    $query = defined $query ? "?$query" : '';

    if ($site->{https_only} && lc($given{'x-forwarded-proto'} // 'https') eq 'http' && ($given{host} // '') =~ /^[\w.:\[\]-]+$/) {
        return plain($c, 301, headers => { Location => "https://$given{host}$target" });
    }
    if (my $move = $site->{redirects}{$path}) {
        my ($to, $status) = ref $move ? ($move->{url}, $move->{status} || 301) : ($move, 301);
        return plain($c, $status, headers => { Location => $to }) if defined $to && $to !~ /[\r\n]/ && $reason{$status};
    }
    my ($file, $location) = locate($path);
    return plain($c, 301, headers => { Location => "$location$query" }) if defined $location;
    return send_file($c, 200, $file, $path, \%given) if defined $file;
    return send_file($c, 404, "$root/$missing", $path, {}) if -f "$root/$missing";
    return plain($c, 404);
}

sub extra_headers {
    my $path = shift;
    my %extra;
    for my $rule (@headers) { %extra = (%extra, %{ $rule->[1] }) if $path =~ $rule->[0] && ref $rule->[1] eq 'HASH' }
    return map { my $v = $extra{$_}; /[^\w-]/ || $v =~ /[\r\n]/ ? () : ($_ => $v) } keys %extra;
}

sub start {
    my ($c, $status, %headers) = @_;
    my $date = POSIX::strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime);
    my $text = "HTTP/1.1 $status " . ($reason{$status} // '') . "\r\nDate: $date\r\n";
    $text .= "$_: $headers{$_}\r\n" for sort keys %headers;
    $text .= "Connection: close\r\n" if $c->{close};
    $c->{out} .= "$text\r\n";
}

# plain CONNECTION, STATUS: an answer that has no file.
sub plain {
    my ($c, $status, %with) = @_;
    $c->{close} = 1 if $with{close};
    my $body = "$status $reason{$status}\n";
    start($c, $status, 'Content-Type' => 'text/plain; charset=utf-8', 'Content-Length' => length $body, %{ $with{headers} || {} });
    $c->{out} .= $body unless $c->{head};
    return 1;
}

sub send_file {
    my ($c, $status, $path, $asked, $given) = @_;
    sysopen my $file, $path, O_RDONLY or return plain($c, 404);
    my $size = -s $file;
    my ($extension) = lc($path) =~ /\.([a-z0-9]+)$/;
    my $type = $type{ $extension // '' } // 'application/octet-stream';
    $type .= '; charset=utf-8' if $type =~ m{^text/|javascript|json|xml};
    my %headers = ('Content-Type' => $type, 'X-Content-Type-Options' => 'nosniff', 'Accept-Ranges' => 'bytes', extra_headers($asked));
    my $tag = $etag{$path};
    $headers{ETag} = "\"$tag\"" if $tag;
    my $known = $given->{'if-none-match'} // '';
    if ($tag && ($known eq '*' || index($known, "\"$tag\"") >= 0)) {
        start($c, 304, map { $_ => $headers{$_} } grep { !/^Content-/ } keys %headers);
        return 1;
    }
    my ($from, $length) = (0, $size);
    my $same = !defined $given->{'if-range'} || ($tag && $given->{'if-range'} eq "\"$tag\"");
    if ($status == 200 && $same && ($given->{range} // '') =~ /^bytes=(\d*)-(\d*)$/ && "$1$2" ne '') {
        my $to = $2 ne '' && $1 ne '' && $2 < $size ? $2 : $size - 1;
        $from = $1 ne '' ? $1 : $2 >= $size ? 0 : $size - $2;
        return plain($c, 416, headers => { 'Content-Range' => "bytes */$size" }) if $from >= $size || $to < $from;
        ($status, $length) = (206, $to - $from + 1);
        $headers{'Content-Range'} = "bytes $from-$to/$size";
    }
    start($c, $status, %headers, 'Content-Length' => $length);
    if (!$c->{head} && $length) {
        sysseek $file, $from, 0;
        @$c{qw(file left)} = ($file, $length);
    }
    return 1;
}

# advance CONNECTION: writes what is there and answers what has come in; false when the connection is over.
sub advance {
    my $c = shift;
    while (1) {
        if ($c->{file} && length $c->{out} < CHUNK) {
            my $want = $c->{left} < CHUNK ? $c->{left} : CHUNK;
            my $got = sysread $c->{file}, $c->{out}, $want, length $c->{out};
            return 0 unless $got; # shorter than it was a moment ago: the promised length can't be kept
            $c->{left} -= $got;
            delete $c->{file} unless $c->{left};
        }
        if (length $c->{out}) {
            my $sent = syswrite $c->{socket}, $c->{out};
            return $!{EAGAIN} || $!{EWOULDBLOCK} || $!{EINTR} unless defined $sent;
            substr $c->{out}, 0, $sent, '';
            $c->{seen} = time;
            next if $sent;
        }
        next if $c->{file};
        return 0 if $c->{close};
        return 1 unless length $c->{in} && answer($c);
    }
}

# serve LISTENER: one process, many connections.
sub serve {
    my $listener = shift;
    my %open;
    my $stop = 0;
    local $SIG{TERM} = local $SIG{INT} = sub { $stop = 1 };
    local $SIG{PIPE} = 'IGNORE';
    my $swept = time;
    until ($stop && !%open) {
        my ($readable, $writable) = ('', '');
        if ($stop) {
            # What is being answered is finished; who only waits for a next request is let go.
            for my $fd (keys %open) { delete $open{$fd} unless length $open{$fd}{out} || $open{$fd}{file} || length $open{$fd}{in} }
            $_->{close} = 1 for values %open;
        } elsif (keys %open < CONNECTIONS) {
            vec($readable, fileno $listener, 1) = 1;
        }
        for my $fd (keys %open) {
            if (length $open{$fd}{out} || $open{$fd}{file}) { vec($writable, $fd, 1) = 1 }
            else { vec($readable, $fd, 1) = 1 }
        }
        my $ready = select $readable, $writable, undef, 1;
        if (time - $swept >= 1) {
            $swept = time;
            for my $fd (keys %open) { delete $open{$fd} if $swept - $open{$fd}{seen} > IDLE }
        }
        next if $ready <= 0;
        if (!$stop && vec $readable, fileno $listener, 1) {
            for (1 .. 16) {
                my $socket = $listener->accept or last;
                $socket->blocking(0);
                setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
                my $c = $open{ fileno $socket } = { socket => $socket, in => '', out => '', seen => time };
                vec($readable, fileno $socket, 1) = 1; # most clients have sent by now
            }
        }
        for my $fd (keys %open) {
            my $c = $open{$fd};
            if (vec $readable, $fd, 1) {
                my $got = sysread $c->{socket}, $c->{in}, HEAD_LIMIT, length $c->{in};
                if (!defined $got) { next if $!{EAGAIN} || $!{EWOULDBLOCK} || $!{EINTR} }
                if (!$got) { delete $open{$fd}; next }
                $c->{seen} = time;
            } elsif (!vec $writable, $fd, 1) {
                next;
            }
            delete $open{$fd} unless advance($c);
        }
    }
}

my $port = $ENV{PORT} || 5000;
my $listener = IO::Socket::INET->new(LocalAddr => '0.0.0.0', LocalPort => $port, Listen => 1024, ReuseAddr => 1, Blocking => 0)
    or die "Port $port can't be listened on: $!\n";
$| = 1;
print "Serving $root on port $port\n";

my %workers;
my $stopping = 0;
my $stop_all = sub { $stopping = 1; kill TERM => keys %workers };
my $count = ($ENV{WEB_CONCURRENCY} // '') =~ /^([1-9]\d?)$/ ? $1 : 2;
$SIG{TERM} = $SIG{INT} = $stop_all;
until ($stopping && !%workers) {
    kill TERM => keys %workers if $stopping; # also the one that was just being started
    while (!$stopping && keys %workers < $count) {
        my $pid = fork // die "A process can't be started: $!\n";
        if (!$pid) {
            $SIG{TERM} = $SIG{INT} = 'DEFAULT';
            serve($listener);
            exit;
        }
        $workers{$pid} = 1;
    }
    my $ended = waitpid -1, 0;
    delete $workers{$ended} if $ended > 0;
    select undef, undef, undef, 0.1 if $ended > 0 && !$stopping; # a worker that can't live is not restarted in a spin
}
