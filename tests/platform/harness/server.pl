# A web app for the tests: it answers with the commit's word and who it is, and with how much was uploaded; echoes what a
# WebSocket says in short messages; finishes what it answers when it is told to stop, and does nothing else.
use strict;
use warnings;
use Digest::SHA 'sha1_base64';
use IO::Socket::INET;
use POSIX ':sys_wait_h';

open my $file, '<', 'word' or die "word: $!\n";
chomp(my $word = <$file>);
my ($me, $stopping) = ($$, 0);
my $server = IO::Socket::INET->new(LocalPort => $ENV{PORT}, Listen => 128, ReuseAddr => 1)
    or die "Port $ENV{PORT} can't be listened on: $!\n";
$| = 1;
print "$word listens on $ENV{PORT}\n";
$SIG{TERM} = sub { $stopping = 1; close $server };
$SIG{CHLD} = sub { 1 while waitpid(-1, WNOHANG) > 0 };
until ($stopping) {
    my $client = $server->accept or next;
    defined(my $pid = fork) or next;
    if ($pid == 0) {
        $SIG{TERM} = sub { $stopping = 1 };
        close $server;
        serve($client);
        exit;
    }
    close $client;
}
$SIG{CHLD} = 'DEFAULT';
1 while wait > 0;

sub serve {
    my $client = shift;
    my $request = '';
    until ($stopping) {
        sysread $client, $request, 4096, length $request or return;
        next unless $request =~ s/^(.*?\r?\n)\r?\n//s;
        my $head = $1;
        return echo($client, "$1", $request) if $head =~ /^Sec-WebSocket-Key: *(\S+)/mi;
        my $length = $head =~ /^Content-Length: *(\d+)/mi ? $1 : 0;
        until (length $request >= $length) {
            my $read = sysread $client, $request, 65536, length $request;
            return unless $read || (!defined $read && $!{EINTR});
        }
        substr $request, 0, $length, '';
        my $body = "$word pid=$me port=$ENV{PORT} uploaded=$length\n";
        my $size = length $body;
        syswrite $client, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: $size\r\n\r\n$body";
    }
}

# RFC 6455, with messages of up to 125 bytes in one frame each.
sub echo {
    my ($client, $key, $came) = @_;
    my $accept = sha1_base64("${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11") . '=';
    syswrite $client, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        . "Sec-WebSocket-Accept: $accept\r\n\r\n";
    while (1) {
        while (length $came >= 2 && length $came >= 6 + (my $length = ord(substr $came, 1) & 0x7F)) {
            my ($kind, $frame) = (substr($came, 0, 1), substr $came, 0, 6 + $length, '');
            my $text = substr($frame, 6) ^ substr(substr($frame, 2, 4) x 32, 0, $length);
            syswrite $client, $kind . chr($length) . $text;
            return if ord($kind) == 0x88;
        }
        my $read = sysread $client, $came, 4096, length $came;
        return unless $read || (!defined $read && $!{EINTR});
    }
}
